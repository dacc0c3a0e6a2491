"""Trained ranges of characters and their weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sftcore.labelling.rendering.provenance import REASONING
from sftcore.labelling.turns import Turn

_INLINE = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)
_OPENED = re.compile(r"<think>\s*\Z")
_CLOSED = re.compile(r".*?</think>\s*", re.DOTALL)


class Span(NamedTuple):
    """Characters from *start* to *end*, whose tokens have *weight* in the loss; 0 means not trained."""

    start: int
    end: int
    weight: float


class SpanColumns(NamedTuple):
    """The spans of many texts, in order of the texts.

    Attributes:
        owners: int64, index of the text of each span.
        starts, ends: int64, as in :class:`Span`.
        weights: float64, likewise; the spans of a text are in order and disjoint.
    """

    owners: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    weights: NDArray[np.float64]

    def text_spans(self, text: int) -> list[Span]:
        """The spans of one text."""
        first, last = np.searchsorted(self.owners, [text, text + 1])
        columns = (self.starts, self.ends, self.weights)
        return [Span(*span) for span in zip(*(column[first:last].tolist() for column in columns), strict=True)]

    def select(self, kept: NDArray[np.bool_]) -> SpanColumns:
        """The spans that are *kept*."""
        return SpanColumns(self.owners[kept], self.starts[kept], self.ends[kept], self.weights[kept])


def merge_spans(spans: Sequence[Span]) -> list[Span]:
    """The trained ranges in order, without overlaps: where *spans* overlap, the last one applies."""
    boundaries = sorted({boundary for span in spans for boundary in (span.start, span.end)})
    kept: list[Span] = []
    for start, end in pairwise(boundaries):
        weight = next((span.weight for span in reversed(spans) if span.start <= start and end <= span.end), 0.0)
        if not weight:
            continue
        if kept and kept[-1].end == start and kept[-1].weight == weight:
            kept[-1] = kept[-1]._replace(end=end)
        else:
            kept.append(Span(start, end, weight))
    return kept


def reasoning_range(text: str, turn: Turn) -> tuple[int, int] | None:
    """The range of the reasoning in *turn*, with its marks; None if it has none."""
    start, end = turn.spans[0]
    places = [index for index, piece in enumerate(turn.own) if piece.tag & 7 == REASONING]
    if places:
        rest = turn.own[places[-1] + 1 :]
        start = turn.own[places[0] - 1].end if places[0] else start
        if rest:
            return start, rest[0].start
        return start, turn.stop[0] if turn.stop else turn.own[-1].end
    pattern = _CLOSED if _OPENED.search(text[max(start - 16, 0) : start]) else _INLINE  # the prompt may have opened it
    inline = pattern.match(text, start, end)
    return inline.span() if inline else None
