"""From a block of rows to a table: what a process does on its own."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pyarrow as pa

from sftcore.core.errors import SftError
from sftcore.data.preparation.blocks import Block
from sftcore.data.preparation.shared_memory import Place
from sftcore.data.row_types import Origin
from sftcore.data.sources.formats import Reader, parse
from sftcore.data.sources.readers import Row, decoded
from sftcore.data.sources.rejected import Refusal
from sftcore.data.sources.renaming import Columns
from sftcore.data.tables.label_batch import tabulate
from sftcore.data.tables.table import inner
from sftcore.labelling import Labeller

DEEP = 1000
"""How many calls deep the work on a row may go."""

_PARALLEL = "TOKENIZERS_PARALLELISM"


class Task(NamedTuple):
    """How the rows of a source are read, and the names of its files."""

    reader: Reader
    names: Sequence[str]


class Done(NamedTuple):
    """What became of a block: each of its rows is in the table, or is a bad one.

    Attributes:
        source: the number of its source.
        file: the number of the file in it.
        read: how many rows it had.
        table: the rows that could be read and labelled; None if bad ones were looked for, and nothing else.
        bad: the rows that could not be read, without what is in them.
        unlabelled: the rows that cannot be labelled, likewise.
        lines: both, in order: number of the file, line, and JSON.
        seen: columns that rows had.
        tokens: how many the examples have.
        share: how much of the source is read with it.
    """

    source: int
    file: int
    read: int
    table: pa.RecordBatch | None
    bad: list[Refusal]
    unlabelled: list[Refusal]
    lines: list[str]
    seen: list[str]
    tokens: int
    share: float


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from looking through all rows again and again while there come more: twice as fast."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_uncollected()
def work(block: Block, tasks: Sequence[Task], labeller: Labeller, label: bool) -> Done:
    """Return what becomes of the rows of *block*.

    Args:
        label: label them too, and not only look for bad ones.

    Raises:
        DataError: a row is too long, and the policy is to end the run.
    """
    reader, names = tasks[block.source]
    name = names[block.file]
    columns = Columns(reader.source.columns)
    bad: list[Refusal] = []
    with _same_depth():
        rows: list[Row] = [(Origin(name, line), decoded(raw)) for line, raw in block.rows]
        parsed = list(parse(rows, reader, bad, columns))
        table, failed = tabulate(parsed, labeller, block.file) if label else (None, [])
    content = dict(rows) if failed else {}
    unlabelled = [Refusal.of(row.origin, str(error), content[row.origin]) for row, error in failed]
    return Done(
        source=block.source,
        file=block.file,
        read=len(rows),
        table=table,
        bad=[Refusal(refusal.origin, refusal.reason) for refusal in bad],
        unlabelled=[Refusal(refusal.origin, refusal.reason) for refusal in unlabelled],
        lines=[
            f"{block.file} {refusal.origin.line} {refusal.line()}"
            for refusal in sorted([*bad, *unlabelled], key=lambda refusal: refusal.origin.line)
        ],
        seen=columns.seen,
        tokens=len(inner(table["input_ids"])) if table is not None else 0,
        share=block.share,
    )


@contextmanager
def _same_depth() -> Iterator[None]:
    """Let the stack grow by as much in every process, since how deeply a row may be nested must not depend on it."""
    depth, frame = 0, sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        depth += 1
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + DEEP)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


_here: tuple[Sequence[Task], Labeller, Sequence[Place]] | None = None


def begin(tasks: Sequence[Task], labeller: Labeller, places: Sequence[Place], parent: int) -> None:
    """Make this process, which was forked to work, ready: it ends with its parent, and leaves signals to it."""
    global _here
    _here = tasks, labeller, places
    os.environ[_PARALLEL] = "false"
    os.environ["RAYON_NUM_THREADS"] = "1"
    _keep_freed_memory()
    end_with_parent(parent)


def call(block: Block, label: bool, place: int | None) -> tuple[Done, int | None]:
    """Return :func:`work` on *block*, in a process that :func:`begin` made ready, and the number of the table's place.

    Args:
        place: the number of a place that is free; None if there is none, and the table has to come with the answer.

    Raises:
        SftError, MemoryError: as it does.
        RuntimeError: anything else happened; with the traceback, since not every error can be sent to the parent.
    """
    assert _here is not None
    tasks, labeller, places = _here
    try:
        done = work(block, tasks, labeller, label)
        if place is None or done.table is None or not places[place].put(done.table):
            return done, None
        return done._replace(table=None), place
    except (SftError, MemoryError):
        raise
    except BaseException as error:
        raise RuntimeError("".join(traceback.format_exception(error))) from None


@contextmanager
def one_thread() -> Iterator[None]:
    """Let ``tokenizers`` leave the other cores to the processes that are at work there."""
    before = os.environ.get(_PARALLEL)
    os.environ[_PARALLEL] = "false"
    try:
        yield
    finally:
        del os.environ[_PARALLEL]
        if before is not None:
            os.environ[_PARALLEL] = before


def give_back_freed_memory() -> None:
    """Give back what this process has freed, before others are forked from it: each would copy it where it writes."""
    import ctypes

    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if malloc_trim:
        malloc_trim(0)


def _keep_freed_memory() -> None:
    """Let what one block leaves be there for the next: to give it back and ask again takes 5 % of the time."""
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc
    if mallopt:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 1 << 26)
        mallopt(mmap_threshold, 1 << 25)


def end_with_parent(parent: int) -> None:
    """Let this process be killed when the process *parent* dies, and not be asked to stop with it."""
    import ctypes
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(1)
