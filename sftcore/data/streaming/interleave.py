"""In which order a stream reads its sources: side by side, so that all of them end together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sftcore.config.schema import SourceConfig
from sftcore.data.preparation import fingerprint
from sftcore.data.preparation.blocks import Block, blocks
from sftcore.data.preparation.worker import Task
from sftcore.data.sources.compression import plain_suffix
from sftcore.data.sources.files import Reading
from sftcore.data.sources.rejected import as_json

ROWS = 256
"""How many rows a block of a stream has, at most: small ones mix better, and the first comes sooner."""


LOOK = 16
"""How many blocks are looked at, to tell how many rows there are."""


@dataclass(frozen=True)
class Feed:
    """A source of a stream.

    Attributes:
        expected: about how many rows it has; known only once it was read.
        rate: how often a row of it is trained in a pass.
    """

    task: Task
    files: Sequence[Path]
    seen: Sequence[list[int]]
    reading: Reading
    expected: int = 1
    rate: float = 1.0

    @property
    def path(self) -> str:
        """Its path as the configuration has it."""
        return self.task.reader.source.path

    @property
    def readings(self) -> int:
        """How often it is read in a pass."""
        return math.ceil(self.rate)

    def part_of(self, reading: int) -> float:
        """Return which part of its rows the *reading* of this number is for: all, or in the last one a share."""
        return min(1.0, self.rate - reading)

    def blocks(self, number: int) -> Iterator[Block]:
        """Yield all its rows; *number* is its own.

        Raises:
            DataError: it cannot be read, or was changed meanwhile.
        """
        yield from blocks(number, self.reading, ROWS)
        fingerprint.check_unchanged(self.files, self.seen)


def interleaved(feeds: Sequence[Feed]) -> Iterator[tuple[Block, int]]:
    """Yield the blocks of a pass, each with the number of the reading of its source.

    The next block always comes from the source of which the smallest part is read.
    """
    rests = [_readings(number, feed) for number, feed in enumerate(feeds)]
    taken = [0] * len(feeds)
    left = list(range(len(feeds)))
    while left:
        number = min(left, key=lambda at: (taken[at] / (feeds[at].expected * feeds[at].readings), at))
        found = next(rests[number], None)
        if found is None:
            left.remove(number)
        else:
            taken[number] += len(found[0].rows)
            yield found


def _readings(number: int, feed: Feed) -> Iterator[tuple[Block, int]]:
    for reading in range(feed.readings):
        for block in feed.blocks(number):
            yield block, reading


def expected(source: SourceConfig, reading: Reading, files: Sequence[Path]) -> int:
    """Return about how many rows *source* has, from its first ones and the size of its files.

    The answer is the same in every process, whatever its threads have read by now.
    """
    rest = blocks(0, reading, ROWS)
    first = list(islice(rest, LOOK))
    rows = sum(len(block.rows) for block in first)
    if len(first) < LOOK or next(rest, None) is None:
        return rows
    about = _expected(first, rows, reading, files)
    return max(rows, math.ceil(about if source.limit is None else min(about, source.limit)))


def _expected(first: Sequence[Block], rows: int, reading: Reading, files: Sequence[Path]) -> float:
    file = files[first[-1].file] if files else None
    if file is not None and file.suffix == ".parquet":
        return _rows_of_table(file) * reading.size / file.stat().st_size
    if file is not None and plain_suffix(file) == ".json":  # read at once, so that the place in it tells nothing
        return rows * reading.size / sum(_size(row) for block in first for _, row in block.rows)
    return rows / max(first[-1].share, 1e-9)


def _rows_of_table(file: Path) -> int:
    import pyarrow.parquet

    return int(pyarrow.parquet.read_metadata(file).num_rows)


def _size(row: Any) -> int:
    return len(as_json(row).encode()) + 2
