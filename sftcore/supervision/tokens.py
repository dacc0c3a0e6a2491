"""From characters to tokens."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from sftcore.errors import RowError
from sftcore.supervision.spans import Span
from sftcore.types import IGNORE_INDEX


class Encoded(NamedTuple):
    """The tokens of a text, and the range of characters of each; no ranges if the tokenizer does not tell."""

    ids: list[int]
    offsets: list[tuple[int, int]]


def encode(tokenizer: Any, text: str) -> Encoded:
    """Return the tokens of *text*, as ``apply_chat_template`` gives them.

    Raises:
        RowError: it has half of a surrogate pair, which is no character.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"the text has {text[error.start]!r}, half of a surrogate pair, which is no character") from None
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return Encoded(encoded["input_ids"], encoded["offset_mapping"])
    return Encoded(_plain(tokenizer, text), [])


def label_tokens(
    tokenizer: Any, encoded: Encoded, text: str, spans: Sequence[Span], added: Collection[int]
) -> tuple[list[int], list[float]]:
    """Return labels and weights of the tokens of *text*, of which *spans*, ordered and apart, are trained.

    A token is trained if its characters touch a span. One that begins before is trained with it too, unless
    it is an added token: such a marker belongs to the prompt, and only took the white space that follows
    it (``rstrip=True``). The first token is never trained: nothing predicts it.
    """
    ids, offsets = encoded
    labels = [IGNORE_INDEX] * len(ids)
    weights = [0.0] * len(ids)
    token = 0
    for start, end, weight in spans:
        if offsets:
            while token < len(ids) and (
                offsets[token][1] <= start or (offsets[token][0] < start and ids[token] in added)
            ):
                token += 1
            first = token
            while token < len(ids) and offsets[token][0] < end:
                token += 1
        else:
            first, token = (_boundary(tokenizer, ids, text[:border]) for border in (start, end))
        labels[first:token] = ids[first:token]
        weights[first:token] = [weight] * (token - first)
    if labels:
        labels[0], weights[0] = IGNORE_INDEX, 0.0
    return labels, weights


def tokens_in(offsets: Sequence[tuple[int, int]], ranges: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Yield the positions of the tokens that have characters in any of *ranges*, which lie apart."""
    for start, end in sorted(ranges):
        first = bisect_right(offsets, start, key=lambda offset: offset[1])
        last = bisect_left(offsets, end, key=lambda offset: offset[0])
        yield from range(first, last)


def _plain(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _boundary(tokenizer: Any, ids: list[int], prefix: str) -> int:
    """Return how many of *ids* the text *prefix* is, for a tokenizer that does not tell where its tokens lie."""
    head = _plain(tokenizer, prefix)
    if ids[: len(head)] != head:
        raise RowError(
            "a token crosses the border of a trained span, and this tokenizer does not tell where its tokens lie"
        )
    return len(head)
