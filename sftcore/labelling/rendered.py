"""Rendered conversations: texts, and which characters of them are trained, before they are tokenized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sftcore.labelling.spans import Span
from sftcore.labelling.warnings import LabelWarning

Integers = NDArray[np.int64]

Place = tuple[int, int]
"""A boundary between characters: how many of the inserted texts are before it, and how many other characters."""


class Positions(NamedTuple):
    """Positions in one text, in characters.

    Attributes:
        spans: trained ranges, in order and disjoint.
        starts: index of each trained message, and its first trained character.
        stops: ranges of the trained stop tokens.
        turns: ranges of the assistant turns.
    """

    spans: list[Span]
    starts: list[tuple[int, int]]
    stops: list[tuple[int, int]]
    turns: list[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Boundaries:
    """:class:`Positions` that hold for whatever texts are inserted."""

    spans: Sequence[tuple[Place, Place, float]]
    starts: Sequence[tuple[int, Place]]
    stops: Sequence[tuple[Place, Place]]
    turns: Sequence[tuple[Place, Place]]

    @cached_property
    def arrays(self) -> tuple[Integers, NDArray[np.float64], Integers]:
        """Places of the spans, (spans, 2, 2), their weights, (spans,), and places of the turns, (turns, 2, 2)."""
        return (
            np.array([(start, end) for start, end, _ in self.spans], np.int64).reshape(-1, 2, 2),
            np.array([weight for _, _, weight in self.spans], np.float64),
            np.array(self.turns, np.int64).reshape(-1, 2, 2),
        )


class RenderedExample(NamedTuple):
    """An example before it is tokenized.

    Attributes:
        messages: number of messages in it, from the first.
        boundaries: what is trained in it.
        inserted: the texts in it that the boundaries count as one.
    """

    text: str
    messages: int
    boundaries: Boundaries
    inserted: Sequence[str] = ()

    @property
    def positions(self) -> Positions:
        """The boundaries in characters of the text."""
        before = [0, *accumulate(map(len, self.inserted))]

        def at(place: Place) -> int:
            texts, others = place
            return before[texts] + others

        spans, starts, stops, turns = (getattr(self.boundaries, name) for name in Positions._fields)
        return Positions(
            [Span(at(start), at(end), weight) for start, end, weight in spans],
            [(message, at(start)) for message, start in starts],
            [(at(start), at(end)) for start, end in stops],
            [(at(start), at(end)) for start, end in turns],
        )

    @property
    def is_weighted(self) -> bool:
        """Whether a trained character weighs other than 1."""
        return any(weight != 1 for _, _, weight in self.boundaries.spans)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RenderedExample):
            return NotImplemented
        return self[:2] == other[:2] and self.positions == other.positions


@dataclass
class RenderedConversation:
    """The examples of one conversation before they are tokenized, and its warnings."""

    examples: list[RenderedExample] = field(default_factory=list)
    warnings: Counter[LabelWarning] = field(default_factory=Counter)
    details: dict[LabelWarning, str] = field(default_factory=dict)
    """The first case of some warnings."""
