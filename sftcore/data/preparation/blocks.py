"""Blocks of rows: what one process labels at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sftcore.data.sources.readers import LineRange, NumberedRow
from sftcore.data.sources.source_rows import SourceRows

ROWS = 1024  # how many rows a block has, at most
BYTES = 1 << 24  # bytes of text that end a block early, so that long rows do not fill the memory


class Block(NamedTuple):
    """Some rows of one file, in order; a range of lines is read when it is iterated."""

    source: int  # number of the source, and of the file in it
    file: int
    rows: Sequence[NumberedRow] | LineRange
    progress: float  # share of the source that is read with this block, between 0 and 1
    reading: int = 0  # how often the source was read before


def read_blocks(number: int, rows: SourceRows, most: int | None = None) -> Iterator[Block]:
    """Yield all rows of the source of this *number*; where a block ends depends on its rows alone.

    Args:
        most: rows of a block. Without it, the lines of plain JSONL are read by the process that labels their block.
    """
    if most is None and (ranges := rows.line_ranges(ROWS, BYTES)) is not None:
        yield from (Block(number, file, lines, rows.progress) for file, lines in ranges)
        return
    block: list[NumberedRow] = []
    block_file = size = 0
    for file, line, raw in rows:
        if file != block_file or len(block) == (most or ROWS) or size >= BYTES:
            if block:
                yield Block(number, block_file, block, rows.progress)
            block, size, block_file = [], 0, file
        block.append((line, raw))
        size += _text_size(raw)
    if block:
        yield Block(number, block_file, block, 1.0)


def _text_size(row: Any) -> int:
    """About how many bytes the texts in *row* have."""
    size, values = 0, [row]
    while values:
        value = values.pop()
        if isinstance(value, (str, bytes)):
            size += len(value)
        elif isinstance(value, dict):
            values += value.values()
        elif isinstance(value, list):
            values += value
        else:
            size += 8
    return size
