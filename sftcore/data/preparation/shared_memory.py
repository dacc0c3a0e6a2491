"""Memory through which tables come from another process: in a pipe they would be copied six times on their way."""

from __future__ import annotations

from mmap import mmap

import pyarrow as pa

SIZE = 1 << 25
"""How many bytes a table may have. Memory is used for as many as it has."""

SCHEMA_SIZE = 1 << 16
"""How many of these are left for what its columns are called."""


class Place:
    """Room for one table, shared with the processes that are forked once it is made."""

    def __init__(self) -> None:
        self._memory = pa.py_buffer(mmap(-1, SIZE))

    def put(self, table: pa.RecordBatch) -> bool:
        """Put *table* here, in place of another; tell whether there is room for it."""
        if pa.ipc.get_record_batch_size(table) > SIZE - SCHEMA_SIZE:
            return False
        with pa.ipc.new_stream(pa.FixedSizeBufferWriter(self._memory), table.schema) as stream:
            stream.write_batch(table)
        return True

    def table(self) -> pa.RecordBatch:
        """Return the table that is here; what is in it changes once another is put here."""
        return pa.ipc.open_stream(self._memory).read_next_batch()
