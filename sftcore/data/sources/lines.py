"""Lines of a file by their position, so that one process finds where they end and another reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from sftcore.core.errors import DataError


@dataclass(frozen=True)
class LineRange:
    """Some lines of the file at *path*, read when they are iterated."""

    path: Path
    start: int  # byte where they begin
    size: int  # in bytes
    first: int  # number of the first line, from 1
    number: int  # of lines

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yield the lines with their numbers; raise DataError if the file cannot be read."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                content = file.read(self.size)
        except OSError as error:
            raise DataError(f"data source {self.path} cannot be read: {error}") from None
        return number_lines(content.split(b"\n"), self.first)


def number_lines(lines: Iterable[bytes], first: int = 1) -> Iterator[tuple[int, bytes]]:
    """Yield each of *lines* that is not empty, with its number; the first line has the number *first*."""
    for number, line in enumerate(lines, first):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        line = line.rstrip()
        if line:
            yield number, line


def split_lines(path: Path, file: IO[bytes], most: int, size: int) -> Iterator[LineRange]:
    """Yield all lines of *file*, opened at *path*: at most *most* at a time, or as many as have *size* bytes."""
    start, first = 0, 1
    while True:
        number = taken = 0
        for line in islice(file, most):
            number += 1
            taken += len(line)
            if taken >= size:
                break
        if not number:
            return
        yield LineRange(path, start, taken, first, number)
        start, first = start + taken, first + number
