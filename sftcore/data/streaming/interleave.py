"""The order in which a stream reads its sources: side by side, so that all of them end together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from sftcore.data.preparation.blocks import Block, read_blocks
from sftcore.data.sources.compression import plain_suffix
from sftcore.data.sources.formats import DataSource
from sftcore.data.sources.rejected import to_json

ROWS = 256
"""How many rows a block of a stream has, at most: small ones mix better, and the first comes sooner."""

SAMPLED_BLOCKS = 16
"""How many blocks are read to estimate the number of rows."""


@dataclass(frozen=True)
class StreamSource:
    """A source of a stream."""

    source: DataSource
    expected: int = 1  # about how many rows it has; known exactly only once it was read
    rate: float = 1.0  # how often one of its rows is trained in a pass over the data

    @property
    def readings(self) -> int:
        """How often it is read in a pass."""
        return math.ceil(self.rate)

    def share_of(self, reading: int) -> float:
        """The share of its rows that the *reading* of this number trains: all, or in the last one a part."""
        return min(1.0, self.rate - reading)

    def blocks(self, number: int) -> Iterator[Block]:
        """Yield all its rows, unless it is changed meanwhile; *number* is its own."""
        yield from read_blocks(number, self.source.rows, ROWS)
        self.source.rows.check_unchanged()


def interleave(sources: Sequence[StreamSource]) -> Iterator[Block]:
    """Yield the blocks of a pass; the next always comes from the source of which the smallest part was read."""
    blocks = [_read_repeatedly(number, source) for number, source in enumerate(sources)]
    taken = [0] * len(sources)
    left = list(range(len(sources)))
    while left:
        number = min(left, key=lambda at: (taken[at] / (sources[at].expected * sources[at].readings), at))
        if block := next(blocks[number], None):
            taken[number] += len(block.rows)
            yield block
        else:
            left.remove(number)


def _read_repeatedly(number: int, source: StreamSource) -> Iterator[Block]:
    for reading in range(source.readings):
        yield from (block._replace(reading=reading) for block in source.blocks(number))


def estimate_rows(source: DataSource) -> int:
    """About how many rows *source* has, from its first ones and the size of its files: the same in every process."""
    rest = read_blocks(0, source.rows, ROWS)
    first = list(islice(rest, SAMPLED_BLOCKS))
    rows = sum(len(block.rows) for block in first)
    if len(first) < SAMPLED_BLOCKS or next(rest, None) is None:
        return rows
    estimate, limit = _estimate(first, rows, source), source.config.limit
    return max(rows, math.ceil(estimate if limit is None else min(estimate, limit)))


def _estimate(first: Sequence[Block], rows: int, source: DataSource) -> float:
    files, size = source.rows.files, source.rows.size
    file = files[first[-1].file] if files else None
    if file is not None and file.suffix == ".parquet":
        import pyarrow.parquet

        return float(pyarrow.parquet.read_metadata(file).num_rows * size / file.stat().st_size)
    if file is not None and plain_suffix(file) == ".json":  # read at once, so the position in it says nothing
        return rows * size / sum(len(to_json(row).encode()) + 2 for block in first for _, row in block.rows)
    return rows / max(first[-1].progress, 1e-9)
