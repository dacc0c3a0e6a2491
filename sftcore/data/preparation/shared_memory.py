"""Shared memory through which tables come from other processes: a pipe would copy them six times."""

from __future__ import annotations

from mmap import mmap

import pyarrow as pa

SIZE = 1 << 25
"""How many bytes a table may have; memory is used only for those that it has."""

SCHEMA_SIZE = 1 << 16
"""How many of these are reserved for the schema."""


class TableSlot:
    """Room for one table, shared with the processes that are forked later."""

    def __init__(self) -> None:
        self._memory = pa.py_buffer(mmap(-1, SIZE))

    def write(self, table: pa.RecordBatch) -> bool:
        """Write *table* in place of another; False if it is too large."""
        if pa.ipc.get_record_batch_size(table) > SIZE - SCHEMA_SIZE:
            return False
        with pa.ipc.new_stream(pa.FixedSizeBufferWriter(self._memory), table.schema) as stream:
            stream.write_batch(table)
        return True

    def read(self) -> pa.RecordBatch:
        """The table in the slot; its content changes once another is written."""
        return pa.ipc.open_stream(self._memory).read_next_batch()
