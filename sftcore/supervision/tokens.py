"""From characters to tokens."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sftcore.encoding import Columns, Encoded, encode, tokens_of_prefix
from sftcore.errors import RowError
from sftcore.supervision.spans import Span
from sftcore.types import IGNORE_INDEX

__all__ = ["Encoded", "LabelColumns", "encode", "label_columns", "label_tokens", "tokens_in"]


class LabelColumns(NamedTuple):
    """What of the tokens of many texts is trained.

    Attributes:
        labels: int32, for each of ``Columns.ids`` the token itself, or ``IGNORE_INDEX`` where it is not trained.
        weights: float64, what each token weighs, 0 where it is not trained; None where each trained one weighs 1.
        refused: the texts that cannot be labelled, by their position, and why. Nothing of them is trained.
    """

    labels: NDArray[np.int32]
    weights: NDArray[np.float64] | None
    refused: dict[int, RowError]


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
            first, token = (tokens_of_prefix(tokenizer, ids, text[:border]) for border in (start, end))
        labels[first:token] = ids[first:token]
        weights[first:token] = [weight] * (token - first)
    if labels:
        labels[0], weights[0] = IGNORE_INDEX, 0.0
    return labels, weights


def label_columns(
    tokenizer: Any, columns: Columns, spans: Sequence[Sequence[Span]], added: Collection[int]
) -> LabelColumns:
    """Return labels and weights of the tokens of many texts, by the rule of :func:`label_tokens`.

    Args:
        spans: for each text the ranges that are trained, ordered and apart.
    """
    counts = np.fromiter(map(len, spans), np.int64, len(columns))
    flat = np.fromiter(chain.from_iterable(chain.from_iterable(spans)), np.float64, 3 * int(counts.sum()))
    starts, ends, values = flat.reshape(-1, 3).T
    owners = np.repeat(np.arange(len(columns)), counts)
    if columns.singles:
        kept = ~np.isin(owners, list(columns.singles))
        starts, ends, values, owners = starts[kept], ends[kept], values[kept], owners[kept]
    first, last = _touched(columns, owners, starts.astype(np.int64), ends.astype(np.int64), added)
    edges = np.stack([first, last], axis=1).ravel()
    runs = np.diff(edges, prepend=0, append=len(columns.ids))
    trained = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    labels = np.where(trained, columns.ids, np.int32(IGNORE_INDEX))
    heads = columns.rows[:-1][columns.rows[:-1] < columns.rows[1:]]
    labels[heads] = IGNORE_INDEX
    weights: NDArray[np.float64] | None = None
    if not all(span.weight == 1 for row in columns.singles for span in spans[row]) or not np.all(values == 1):
        alternating = np.zeros(len(runs), np.float64)
        alternating[1::2] = values
        weights = np.repeat(alternating, runs)
        weights[heads] = 0
    refused: dict[int, RowError] = {}
    for row, encoded in columns.singles.items():
        here = slice(columns.rows[row], columns.rows[row + 1])
        try:
            found, each = label_tokens(tokenizer, encoded, columns.texts[row], spans[row], added)
        except RowError as error:
            refused[row] = error
            continue
        labels[here] = found
        if weights is not None:
            weights[here] = each
    return LabelColumns(labels, weights, refused)


def _touched(
    columns: Columns,
    owners: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    added: Collection[int],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first token of each span of the texts *owners*, and the one after its last; no token is in two."""
    if not len(owners):
        return owners, owners
    first, inner = columns.borders(owners, starts)
    _, until = columns.borders(owners, ends)
    markers = np.zeros(max([*added, int(columns.ids.max(initial=-1))]) + 2, bool)  # the last is for "no token"
    markers[list(added)] = True
    ids = np.append(columns.ids, -1)
    while True:
        last = np.maximum.accumulate(np.maximum(first, until))
        first[1:] = np.maximum(first[1:], last[:-1])  # who touched a token before says what it weighs
        skipped = (first < inner) & markers[ids[first]]
        if not skipped.any():
            return first, last
        first += skipped


def tokens_in(offsets: Sequence[tuple[int, int]], ranges: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Yield the positions of the tokens that have characters in any of *ranges*, which lie apart."""
    for start, end in sorted(ranges):
        first = bisect_right(offsets, start, key=lambda offset: offset[1])
        last = bisect_left(offsets, end, key=lambda offset: offset[0])
        yield from range(first, last)
