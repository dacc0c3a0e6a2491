"""The tokens of many texts, as columns."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sftcore.core.errors import RowError
from sftcore.tokenization.single_text import Encoded

Integers = NDArray[np.int64]
Sums = NDArray[np.int32] | NDArray[np.int64]
"""Of 32 bits where these are enough: half as much to search."""


@dataclass(frozen=True, eq=False)
class Columns:
    """The tokens of many texts, one after another, and where they lie in the texts.

    Attributes:
        texts: the texts, '' for one that is refused.
        ids: int32, the tokens of all texts.
        rows: int64, ``len(texts) + 1`` borders: the tokens of text *i* are ``ids[rows[i]:rows[i + 1]]``.
        refused: the texts that are none, by their position, and why. They have no tokens.
        singles: texts whose tokens are placed one at a time, by their position: those of a slow tokenizer, and of
            one that takes blanks off the ranges of its tokens.
    """

    texts: Sequence[str]
    ids: NDArray[np.int32]
    rows: Integers
    refused: Mapping[int, RowError]
    singles: Mapping[int, Encoded]
    _encodings: Mapping[int, Any]
    """What ``tokenizers`` gave for a text, where the places of its tokens come from there."""
    _utf8: Mapping[int, bytes]
    """The texts that are not ASCII, of those whose tokens are placed by bytes."""
    _reach: Sums
    """Where each token ends, in bytes, as if all texts that are placed by bytes were one."""

    def __len__(self) -> int:
        return len(self.texts)

    def borders(self, rows: Integers, characters: Integers) -> tuple[Integers, Integers]:
        """Find what lies around borders between characters.

        Args:
            rows: int64, the text of each border.
            characters: int64, how many characters of that text are before the border.

        Returns:
            Two int64 arrays of positions in ``ids``. The first has the first token that ends after the border, the
            second the first that begins at or after it; where there is none, the end of the text's tokens. A token
            crosses the border if they differ. So the tokens with characters in a range are those from the first
            result for its start to before the second result for its end. Both are -1 in texts of a slow tokenizer.
        """
        rows, characters = np.asarray(rows, np.int64), np.asarray(characters, np.int64)
        if len(self._reach):
            after, until = self._by_bytes(rows, characters)
        else:
            after, until = self.rows[rows], self.rows[rows]
        if self._encodings or self.singles:
            for at, (row, character) in enumerate(zip(rows.tolist(), characters.tolist(), strict=True)):
                found = self._by_ranges(row, character)
                if found is not None:
                    after[at], until[at] = found
        return after, until

    @cached_property
    def _lengths(self) -> Integers:
        """The number of characters of each text."""
        return np.fromiter(map(len, self.texts), np.int64, len(self.texts))

    @cached_property
    def _characters(self) -> tuple[Integers, Integers]:
        """Where each character of the texts in ``_utf8`` begins in the bytes of all of them, and where these end.

        With it the number of characters before each of these texts; -1 for all others.
        """
        data = np.frombuffer(b"".join([*self._utf8.values(), b"."]), np.int8)
        begins = np.flatnonzero(data >= -64)  # all bytes but 0x80 to 0xBF, which go on with a character
        sizes = np.fromiter(map(len, self._utf8.values()), np.int64, len(self._utf8))
        before = np.full(len(self), -1)
        before[list(self._utf8)] = np.searchsorted(begins, np.cumsum(sizes) - sizes)
        return begins, before

    def _by_bytes(self, rows: Integers, characters: Integers) -> tuple[Integers, Integers]:
        places = np.clip(characters, 0, self._lengths[rows])
        if self._utf8:
            begins, numbers = self._characters
            here = np.flatnonzero(numbers[rows] >= 0)
            before = numbers[rows[here]]
            places[here] = begins[before + places[here]] - begins[before]
        first, last = self.rows[rows], self.rows[rows + 1]
        borders = (np.where(first > 0, self._reach[first - 1], 0) + places).astype(self._reach.dtype)
        after = np.searchsorted(self._reach, borders, side="right")
        until = after + (self._reach[after - 1] != borders)
        more = np.flatnonzero(self._reach[until - 2] == borders)  # tokens without length end there too
        until[more] = np.searchsorted(self._reach, borders[more], side="left") + 1
        until = np.where(places > 0, until, first)
        return np.clip(after, first, last), np.clip(until, first, last)

    def _by_ranges(self, row: int, character: int) -> tuple[int, int] | None:
        first, last = int(self.rows[row]), int(self.rows[row + 1])
        if row in self.singles:
            offsets = self.singles[row].offsets
            if not offsets and last > first:
                return -1, -1
            after = bisect_right(offsets, character, key=lambda offset: offset[1])
            return first + after, first + bisect_left(offsets, character, key=lambda offset: offset[0])
        if row in self._encodings:
            chars = self._encodings[row].token_to_chars  # all ranges as a list would cost a third of the encoding
            numbers = range(last - first)
            after = bisect_right(numbers, character, key=lambda number: chars(number)[1])
            return first + after, first + bisect_left(numbers, character, key=lambda number: chars(number)[0])
        return None
