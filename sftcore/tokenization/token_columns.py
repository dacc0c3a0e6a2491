"""The tokens of one text, as the tokenizer itself encodes it, and of many texts, as columns."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sftcore.core.errors import RowError

Integers = NDArray[np.int64]
TokenEnds = NDArray[np.int32] | NDArray[np.int64]
"""Running sums of lengths; of 32 bits where these suffice: half as much to search."""


class EncodedText(NamedTuple):
    """The tokens of a text, and the range of characters of each; empty for a tokenizer without offsets."""

    ids: list[int]
    offsets: list[tuple[int, int]]


def encode_text(tokenizer: Any, text: str) -> EncodedText:
    """The tokens of *text*, as ``apply_chat_template`` gives them; raises as :func:`to_utf8`."""
    to_utf8(text)
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return EncodedText(encoded["input_ids"], encoded["offset_mapping"])
    return EncodedText(_plain(tokenizer, text), [])


def to_utf8(text: str) -> bytes:
    """The bytes of *text*; raises :class:`RowError` if it has a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"the text has the lone surrogate {text[error.start]!r}, which is not a character") from None


def count_prefix_tokens(tokenizer: Any, ids: list[int], prefix: str) -> int:
    """The number of *ids* that the text *prefix* has, for a tokenizer without offsets.

    Raises:
        RowError: a token crosses the end of *prefix*.
    """
    head = _plain(tokenizer, prefix)
    if ids[: len(head)] != head:
        raise RowError("a token crosses the boundary of a trained span, and this tokenizer has no offsets")
    return len(head)


def _plain(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True, eq=False)
class TokenColumns:
    """The tokens of many texts, one after another, and where they lie in the texts.

    Attributes:
        texts: the texts, '' for one with an error.
        ids: int32, (tokens,): the ids of all texts.
        text_offsets: int64, (texts + 1,): the ids of text *i* are ``ids[text_offsets[i]:text_offsets[i + 1]]``.
        errors: by their number, the texts that cannot be encoded; they have no tokens.
        singles: by their number, texts that were encoded one at a time: those of a slow tokenizer, and of one that
            trims spaces from its offsets.
    """

    texts: Sequence[str]
    ids: NDArray[np.int32]
    text_offsets: Integers
    errors: Mapping[int, RowError]
    singles: Mapping[int, EncodedText] = field(default_factory=dict)
    _encodings: Mapping[int, Any] = field(default_factory=dict)
    """The ``tokenizers.Encoding`` of texts whose tokens are not found by bytes."""
    _utf8: Mapping[int, bytes] = field(default_factory=dict)
    """The texts that are not ASCII, of those whose tokens are found by bytes."""
    _ends: TokenEnds = field(default_factory=lambda: np.zeros(0, np.int64))
    """Where each token ends, in bytes, as if all texts whose tokens are found by bytes were one."""

    def __len__(self) -> int:
        return len(self.texts)

    def tokens_around(self, rows: Integers, characters: Integers) -> tuple[Integers, Integers]:
        """Find the tokens around boundaries between characters.

        Args:
            rows: int64, the text of each boundary.
            characters: int64, how many characters of that text are before the boundary.

        Returns:
            Two int64 arrays of positions in ``ids``: the first token that ends after the boundary, and the first that
            begins at or after it; where there is none, the end of the text's tokens. A token crosses the boundary if
            they differ. So the tokens with characters in a range are those from the first result for its start to
            before the second result for its end. Both are -1 in texts of a slow tokenizer.
        """
        rows, characters = np.asarray(rows, np.int64), np.asarray(characters, np.int64)
        if len(self._ends):
            after, until = self._by_bytes(rows, characters)
        else:
            after, until = self.text_offsets[rows], self.text_offsets[rows]
        if self._encodings or self.singles:
            for at, (row, character) in enumerate(zip(rows.tolist(), characters.tolist(), strict=True)):
                positions = self._by_offsets(row, character)
                if positions is not None:
                    after[at], until[at] = positions
        return after, until

    @cached_property
    def _lengths(self) -> Integers:
        """Characters of each text."""
        return np.fromiter(map(len, self.texts), np.int64, len(self.texts))

    @cached_property
    def _characters(self) -> tuple[Integers, Integers]:
        """Where each character of the texts in ``_utf8`` begins in the bytes of all of them, and where these end.

        With it the number of characters before each of these texts; -1 for all others.
        """
        data = np.frombuffer(b"".join([*self._utf8.values(), b"."]), np.int8)
        begins = np.flatnonzero(data >= -64)  # all bytes but 0x80 to 0xBF, which continue a character
        sizes = np.fromiter(map(len, self._utf8.values()), np.int64, len(self._utf8))
        before = np.full(len(self), -1)
        before[list(self._utf8)] = np.searchsorted(begins, np.cumsum(sizes) - sizes)
        return begins, before

    def _by_bytes(self, rows: Integers, characters: Integers) -> tuple[Integers, Integers]:
        places = np.clip(characters, 0, self._lengths[rows])
        if self._utf8:
            begins, numbers = self._characters
            wide = np.flatnonzero(numbers[rows] >= 0)
            before = numbers[rows[wide]]
            places[wide] = begins[before + places[wide]] - begins[before]
        first, last = self.text_offsets[rows], self.text_offsets[rows + 1]
        boundaries = (np.where(first > 0, self._ends[first - 1], 0) + places).astype(self._ends.dtype)
        after = np.searchsorted(self._ends, boundaries, side="right")
        until = after + (self._ends[after - 1] != boundaries)
        empty = np.flatnonzero(self._ends[until - 2] == boundaries)  # tokens without length end there too
        until[empty] = np.searchsorted(self._ends, boundaries[empty], side="left") + 1
        until = np.where(places > 0, until, first)
        return np.clip(after, first, last), np.clip(until, first, last)

    def _by_offsets(self, row: int, character: int) -> tuple[int, int] | None:
        first, last = int(self.text_offsets[row]), int(self.text_offsets[row + 1])
        if row in self.singles:
            offsets = self.singles[row].offsets
            if not offsets and last > first:
                return -1, -1
            offset = offsets.__getitem__
        elif row in self._encodings:
            offset = self._encodings[row].token_to_chars  # all offsets as a list cost a third of the encoding
        else:
            return None
        numbers = range(last - first)
        after = bisect_right(numbers, character, key=lambda number: offset(number)[1])
        return first + after, first + bisect_left(numbers, character, key=lambda number: offset(number)[0])
