"""From a block of rows to a table: what a process does on its own."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from mmap import mmap
from typing import NamedTuple

import pyarrow as pa

from sftcore.core.errors import SftError
from sftcore.data.preparation.blocks import Block
from sftcore.data.row_types import Origin
from sftcore.data.sources.formats import DataSource
from sftcore.data.sources.readers import SourceRow, decoded
from sftcore.data.sources.rejected import RejectedRow, recursion_limit
from sftcore.data.tables.account import RowTotals, count_rejected
from sftcore.data.tables.label_batch import label_rows
from sftcore.data.tables.table import flat_values
from sftcore.labelling import Labeller
from sftcore.runtime.signal_mask import end_with_parent

MAX_CALLS = 1000  # how many calls deep the work on a row may go
SLOT_SIZE = 1 << 25  # how many bytes a table in shared memory may have; memory is used only for those that it has
SCHEMA_SIZE = 1 << 16  # how many of these are reserved for the schema

SINGLE_THREAD = ("TOKENIZERS_PARALLELISM", "false")  # lets ``tokenizers`` leave the other cores to other processes


class LabelledBlock(NamedTuple):
    """The result of a block: each of its rows is in the table, or is rejected."""

    source: int
    table: pa.RecordBatch | None  # None if rows were only checked
    totals: RowTotals
    rejected: list[str]  # in order, each as the number of its file, its line, and JSON
    progress: float
    reading: int
    slot: int | None = None  # the number of the slot that has the table, in its place


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
    """Check whether the rows of *block* can be read, and *label* them.

    Raises:
        DataError: a row is too long, and the policy is to end the run.
    """
    source, file = sources[block.source], block.file
    name = source.rows.names[file]
    bad: list[RejectedRow] = []
    columns: dict[str, None] = {}
    unread: Counter[str] = Counter()
    depth = sum(1 for _ in traceback.walk_stack(sys._getframe()))
    with recursion_limit(depth + MAX_CALLS):  # the same for a row in every process
        rows: list[SourceRow] = [(Origin(name, line), decoded(raw)) for line, raw in block.rows]
        parsed = list(source.parse(rows, bad, columns, unread))
        table, failed = label_rows(parsed, labeller, source.policy, file) if label else (None, [])
    content = dict(rows) if failed else {}
    unlabelled = [RejectedRow.for_reason(row.origin, str(error), content[row.origin]) for row, error in failed]
    tokens = len(flat_values(table["input_ids"])) if table is not None else 0
    counts = (*count_rejected(bad, file), *count_rejected(unlabelled, file))
    totals = RowTotals(len(rows), tokens, *counts, list(columns), dict(unread))
    rejected = sorted([*bad, *unlabelled], key=lambda row: row.origin.line)
    lines = [f"{file} {row.origin.line} {row.to_json()}" for row in rejected]
    return LabelledBlock(block.source, table, totals, lines, block.progress, block.reading)


class TableSlot:
    """Room for one table in memory that is shared with later forks: a pipe would copy the table six times."""

    def __init__(self) -> None:
        self._memory = pa.py_buffer(mmap(-1, SLOT_SIZE))

    def write(self, table: pa.RecordBatch) -> bool:
        """Write *table* in place of another; False if it is too large."""
        if pa.ipc.get_record_batch_size(table) > SLOT_SIZE - SCHEMA_SIZE:
            return False
        with pa.ipc.new_stream(pa.FixedSizeBufferWriter(self._memory), table.schema) as stream:
            stream.write_batch(table)
        return True

    def read(self) -> pa.RecordBatch:
        """The table in the slot; its content changes once another is written."""
        return pa.ipc.open_stream(self._memory).read_next_batch()


_worker: tuple[Sequence[DataSource], Labeller, Sequence[TableSlot]] | None = None  # what a worker process labels with


def init_worker(sources: Sequence[DataSource], labeller: Labeller, slots: Sequence[TableSlot], parent: int) -> None:
    """Set up this process, which was forked as a worker: it ends with its parent, and leaves signals to it."""
    global _worker
    _worker = sources, labeller, slots
    os.environ.update([SINGLE_THREAD])
    os.environ["RAYON_NUM_THREADS"] = "1"
    trim_threshold, mmap_threshold = -1, -3
    call_libc("mallopt", trim_threshold, 1 << 26)  # keep the memory of one block for the next: 5 % of the time
    call_libc("mallopt", mmap_threshold, 1 << 25)
    end_with_parent(parent)


def label_in_worker(block: Block, label: bool, slot: int | None) -> LabelledBlock:
    """Label *block* in a worker process; its table is in *slot*, if there is one and it fits.

    Raises:
        SftError, MemoryError: as :func:`label_block`.
        RuntimeError: anything else, with the traceback: not every error can be sent to the parent.
    """
    assert _worker is not None
    sources, labeller, slots = _worker
    try:
        result = label_block(block, sources, labeller, label)
        if slot is None or result.table is None or not slots[slot].write(result.table):
            return result
        return result._replace(table=None, slot=slot)
    except (SftError, MemoryError):
        raise
    except BaseException as error:
        raise RuntimeError("".join(traceback.format_exception(error))) from None


def call_libc(function: str, *arguments: int) -> None:
    """Call a *function* of the C library, if it has it."""
    if callable(called := getattr(ctypes.CDLL(None), function, None)):
        called(*arguments)
