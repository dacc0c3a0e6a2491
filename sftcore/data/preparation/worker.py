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
from sftcore.data.preparation.shared_memory import TableSlot
from sftcore.data.row_types import Origin
from sftcore.data.sources.formats import DataSource
from sftcore.data.sources.readers import SourceRow, decoded
from sftcore.data.sources.rejected import RejectedRow
from sftcore.data.sources.renaming import ColumnRenamer
from sftcore.data.tables.account import RowTotals
from sftcore.data.tables.label_batch import label_rows
from sftcore.data.tables.table import flat_values
from sftcore.labelling import Labeller

MAX_CALLS = 1000
"""How many calls deep the work on a row may go."""

_PARALLELISM = "TOKENIZERS_PARALLELISM"


class LabelledBlock(NamedTuple):
    """The result of a block: each of its rows is in the table, or is rejected.

    Attributes:
        source: number of its source.
        table: the rows that could be read and labelled; None if rows were only checked.
        totals: the rows in numbers.
        rejected: all rejected rows, in order, each as the number of its file, its line, and JSON.
        progress, reading: as of the block.
    """

    source: int
    table: pa.RecordBatch | None
    totals: RowTotals
    rejected: list[str]
    progress: float
    reading: int


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Keep the collector from traversing all rows again and again while they are read: that halves the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_without_garbage_collection()
def label_block(block: Block, sources: Sequence[DataSource], labeller: Labeller, label: bool) -> LabelledBlock:
    """Label the rows of *block*.

    Args:
        label: label them, and not only check whether they can be read.

    Raises:
        DataError: a row is too long, and the policy is to end the run.
    """
    source, file = sources[block.source], block.file
    name = source.rows.names[file]
    renamer = ColumnRenamer(source.config.columns)
    bad: list[RejectedRow] = []
    with _fixed_stack_depth():
        rows: list[SourceRow] = [(Origin(name, line), decoded(raw)) for line, raw in block.rows]
        parsed = list(source.parse(rows, bad, renamer))
        table, failed = label_rows(parsed, labeller, source.policy, file) if label else (None, [])
    content = dict(rows) if failed else {}
    unlabelled = [RejectedRow.for_reason(row.origin, str(error), content[row.origin]) for row, error in failed]
    tokens = len(flat_values(table["input_ids"])) if table is not None else 0
    totals = RowTotals.for_block(len(rows), tokens, bad, unlabelled, file)
    totals.columns = renamer.seen
    rejected = sorted([*bad, *unlabelled], key=lambda row: row.origin.line)
    lines = [f"{file} {row.origin.line} {row.to_json()}" for row in rejected]
    return LabelledBlock(block.source, table, totals, lines, block.progress, block.reading)


@contextmanager
def _fixed_stack_depth() -> Iterator[None]:
    """Let the stack grow equally in every process, so that how deeply a row may be nested does not depend on it."""
    depth, frame = 0, sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        depth += 1
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + MAX_CALLS)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


_worker: tuple[Sequence[DataSource], Labeller, Sequence[TableSlot]] | None = None
"""What a worker process labels with."""


def init_worker(sources: Sequence[DataSource], labeller: Labeller, slots: Sequence[TableSlot], parent: int) -> None:
    """Set up this process, which was forked as a worker: it ends with its parent, and leaves signals to it."""
    global _worker
    _worker = sources, labeller, slots
    os.environ[_PARALLELISM] = "false"
    os.environ["RAYON_NUM_THREADS"] = "1"
    _keep_freed_memory()
    end_with_parent(parent)


def label_in_worker(block: Block, label: bool, slot: int | None) -> tuple[LabelledBlock, int | None]:
    """Label *block* in a worker process.

    Args:
        slot: number of a free slot for the table; None if there is none, and the table has to be returned.

    Returns:
        The result, and the slot that has its table.

    Raises:
        SftError, MemoryError: as :func:`label_block`.
        RuntimeError: anything else, with the traceback: not every error can be sent to the parent.
    """
    assert _worker is not None
    sources, labeller, slots = _worker
    try:
        result = label_block(block, sources, labeller, label)
        if slot is None or result.table is None or not slots[slot].write(result.table):
            return result, None
        return result._replace(table=None), slot
    except (SftError, MemoryError):
        raise
    except BaseException as error:
        raise RuntimeError("".join(traceback.format_exception(error))) from None


@contextmanager
def single_tokenizer_thread() -> Iterator[None]:
    """Let ``tokenizers`` leave the other cores to the worker processes."""
    before = os.environ.get(_PARALLELISM)
    os.environ[_PARALLELISM] = "false"
    try:
        yield
    finally:
        del os.environ[_PARALLELISM]
        if before is not None:
            os.environ[_PARALLELISM] = before


def return_freed_memory() -> None:
    """Return freed memory to the system before a fork, since each child copies where it writes.

    Measured: 62 -> 60 µs of CPU per row over all processes.
    """
    import ctypes

    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if malloc_trim:
        malloc_trim(0)


def _keep_freed_memory() -> None:
    """Keep the memory of one block for the next; to return and request it again took 5 % of the time."""
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc
    if mallopt:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 1 << 26)
        mallopt(mmap_threshold, 1 << 25)


def end_with_parent(parent: int) -> None:
    """Let the system kill this process when the process *parent* ends; requests to stop go to the parent alone."""
    import ctypes
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)
