"""Labels of tokens from trained ranges of characters."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sftcore.core.errors import RowError
from sftcore.core.types import IGNORE_INDEX
from sftcore.labelling.spans import SpanColumns
from sftcore.labelling.warnings import LabelWarning
from sftcore.tokenization import EncodedText, TokenColumns, count_prefix_tokens


@dataclass(frozen=True)
class LabelledExample:
    """One training example: a conversation, or its first messages, as labelled tokens.

    Attributes:
        text: the rendering by the chat template.
        input_ids: its tokens, as ``apply_chat_template`` gives them.
        labels: the token itself, or ``IGNORE_INDEX`` where it is not trained.
        weights: the weight of each token in the loss, 0 where it is not trained; None if all trained tokens have 1.
        offsets: the range of each token in *text*, in characters; empty for a slow tokenizer.
        stops: positions of trained stop tokens.
        messages: number of messages in it, from its first message.
        turns: indices in the conversation of the messages that are trained in it.
        begins: position of the first trained token of each of *turns*.
        skipped: number of messages dropped after the system prompt to fit the length.
    """

    text: str
    input_ids: list[int]
    labels: list[int]
    weights: list[float] | None
    offsets: list[tuple[int, int]]
    stops: list[int]
    messages: int
    turns: tuple[int, ...]
    begins: tuple[int, ...] = ()
    skipped: int = 0

    @property
    def trained(self) -> int:
        """Number of trained tokens."""
        return sum(label != IGNORE_INDEX for label in self.labels)


@dataclass
class LabelledConversation:
    """The examples of one conversation, and its warnings."""

    examples: list[LabelledExample] = field(default_factory=list)
    warnings: Counter[LabelWarning] = field(default_factory=Counter)
    details: dict[LabelWarning, str] = field(default_factory=dict)
    """The first case of some warnings."""
    longest: int = 0
    """Number of tokens of the longest example before truncation."""


class LabelColumns(NamedTuple):
    """Labels and weights of the tokens of many texts.

    Attributes:
        trained: bool, whether each is trained.
        weights: float64, the weight of each, 0 where it is not trained; None if all trained tokens have 1.
        rejected: errors of the texts that cannot be labelled, by position; none of their tokens is trained.
    """

    trained: NDArray[np.bool_]
    weights: NDArray[np.float64] | None
    rejected: dict[int, RowError]


def label_tokens(
    tokenizer: Any, encoded: EncodedText, text: str, spans: Sequence[tuple[int, int, float]], added: Collection[int]
) -> tuple[list[int], list[float]]:
    """Labels and weights of the tokens of *text*, of which *spans*, in order and disjoint, are trained.

    A token is trained if it has a character in a span. A token that begins before the span is trained too, unless
    it is an added token: such a marker belongs to the prompt and includes the white space that follows it
    (``rstrip=True``). The first token is never trained, since nothing predicts it.
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
            first, token = (count_prefix_tokens(tokenizer, ids, text[:boundary]) for boundary in (start, end))
        labels[first:token] = ids[first:token]
        weights[first:token] = [weight] * (token - first)
    if labels:
        labels[0], weights[0] = IGNORE_INDEX, 0.0
    return labels, weights


def label_columns(tokenizer: Any, columns: TokenColumns, spans: SpanColumns, added: Collection[int]) -> LabelColumns:
    """Labels and weights of the tokens of many texts, by the rule of :func:`label_tokens`."""
    placed = spans.select(~np.isin(spans.owners, list(columns.singles))) if columns.singles else spans
    first, last = _touched(columns, placed, added)
    edges = np.stack([first, last], axis=1).ravel()
    runs = np.diff(edges, prepend=0, append=len(columns.ids))
    trained = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    heads = columns.text_offsets[:-1][columns.text_offsets[:-1] < columns.text_offsets[1:]]
    trained[heads] = False
    weights: NDArray[np.float64] | None = None
    if not np.all(spans.weights == 1):
        alternating = np.zeros(len(runs), np.float64)
        alternating[1::2] = placed.weights
        weights = np.repeat(alternating, runs)
        weights[heads] = 0
    rejected: dict[int, RowError] = {}
    for row, encoded in columns.singles.items():
        here = slice(columns.text_offsets[row], columns.text_offsets[row + 1])
        try:
            labels, each = label_tokens(tokenizer, encoded, columns.texts[row], spans.text_spans(row), added)
        except RowError as error:
            rejected[row] = error
            continue
        trained[here] = np.array(labels) != IGNORE_INDEX
        if weights is not None:
            weights[here] = each
    return LabelColumns(trained, weights, rejected)


def _touched(
    columns: TokenColumns, spans: SpanColumns, added: Collection[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first token of each of *spans*, and the one after its last; no token is in two spans."""
    if not len(spans.owners):
        return spans.owners, spans.owners
    first, inner = columns.tokens_around(spans.owners, spans.starts)
    _, until = columns.tokens_around(spans.owners, spans.ends)
    markers = np.zeros(max(added, default=-1) + 2, bool)  # the last stands for all larger ids
    markers[list(added)] = True
    while True:
        last = np.maximum.accumulate(np.maximum(first, until))
        first[1:] = np.maximum(first[1:], last[:-1])  # the first span of a token sets its weight
        crossing = np.flatnonzero(first < inner)
        skipped = crossing[markers[np.minimum(columns.ids[first[crossing]], len(markers) - 1)]]
        if not len(skipped):
            return first, last
        first[skipped] += 1


def tokens_in(offsets: Sequence[tuple[int, int]], ranges: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Yield the positions of the tokens with characters in any of *ranges*, which are disjoint."""
    for start, end in sorted(ranges):
        first = bisect_right(offsets, start, key=lambda offset: offset[1])
        last = bisect_left(offsets, end, key=lambda offset: offset[0])
        yield from range(first, last)


def crosses_token(turn: tuple[int, int], offsets: Sequence[tuple[int, int]]) -> bool:
    """Whether a token extends across the start or the end of a *turn*."""
    return any(
        offsets[at][0] < boundary < offsets[at][1]
        for boundary in turn
        for at in tokens_in(offsets, [(boundary, boundary + 1)])
    )
