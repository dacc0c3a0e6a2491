"""Lines of a file as a place in it: who finds where they end is not who reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from sftcore.core.errors import DataError


@dataclass(frozen=True)
class Lines:
    """Some lines of the file at *path*, read when they are asked for.

    Attributes:
        begin: the byte where they begin.
        size: how many bytes they have.
        first: the number of the first line, from 1.
        number: how many lines they are.
    """

    path: Path
    begin: int
    size: int
    first: int
    number: int

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yield what :func:`numbered` does.

        Raises:
            DataError: the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.begin)
                content = file.read(self.size)
        except OSError as error:
            raise DataError(f"data source {self.path} cannot be read: {error}") from None
        return numbered(content.split(b"\n"), self.first)


def numbered(lines: Iterable[bytes], first: int = 1) -> Iterator[tuple[int, bytes]]:
    """Yield each of *lines* that is not empty, with its number: the first has the number *first*."""
    for number, line in enumerate(lines, first):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        line = line.rstrip()
        if line:
            yield number, line


def split(path: Path, file: IO[bytes], most: int, size: int) -> Iterator[Lines]:
    """Yield all lines of *file*, opened at *path*, at most so many together, or as many as have this *size*."""
    begin, first = 0, 1
    while True:
        number = held = 0
        for line in islice(file, most):
            number += 1
            held += len(line)
            if held >= size:
                break
        if not number:
            return
        yield Lines(path, begin, held, first, number)
        begin, first = begin + held, first + number
