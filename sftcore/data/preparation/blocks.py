"""Blocks of rows: what one process labels at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any, NamedTuple, Protocol

from sftcore.data.sources.files import Reading
from sftcore.data.sources.readers import Raw

ROWS = 1024
"""How many rows a block has, at most."""

BYTES = 1 << 24
"""So many bytes of text end a block before, so that long rows do not fill the memory."""


class Rows(Sized, Iterable[Raw], Protocol):
    """Rows that are there, or lines that may be read."""


class Block(NamedTuple):
    """Some rows of one file, in order.

    Attributes:
        source: the number of the source.
        file: the number of the file in it.
        rows: the line of each row, and what was read there, or is when it is asked for.
        share: how much of the source is read with this block, between 0 and 1.
    """

    source: int
    file: int
    rows: Rows
    share: float


def blocks(source: int, reading: Reading, most: int | None = None) -> Iterator[Block]:
    """Yield all rows of a source, at most so many in a block; where these end depends on its rows, and nothing else.

    Unless *most* is given, lines that need no unpacking are left to whoever asks for the rows of their block.
    """
    if most is None and reading.has_lines:
        for file, lines in reading.lines(ROWS, BYTES):
            yield Block(source, file, lines, reading.share)
        return
    rows: list[Raw] = []
    here = size = 0
    for file, line, raw in reading:
        if file != here or len(rows) == (most or ROWS) or size >= BYTES:
            if rows:
                yield Block(source, here, rows, reading.share)
            rows, size, here = [], 0, file
        rows.append((line, raw))
        size += len(raw) if isinstance(raw, bytes) else _size(raw)
    if rows:
        yield Block(source, here, rows, 1.0)


def _size(row: Any) -> int:
    """Return about how many bytes the texts in *row* have."""
    size, left = 0, [row]
    while left:
        value = left.pop()
        if isinstance(value, (str, bytes)):
            size += len(value)
        elif isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value
        else:
            size += 8
    return size
