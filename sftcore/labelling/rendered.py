"""Rendered conversations: texts, and which characters of them are trained, before they are tokenized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from sftcore.core.errors import RowError
from sftcore.labelling.spans import SpanColumns
from sftcore.labelling.warnings import LabelWarning

Integers = NDArray[np.int64]

Place = tuple[int, int]
"""A boundary between characters: how many of the inserted texts are before it, and how many other characters."""


_P = TypeVar("_P")
_Q = TypeVar("_Q")


@dataclass(frozen=True)
class Boundaries(Generic[_P]):
    """What is trained in a text: at :data:`Place` that hold for whatever texts are inserted, or at characters.

    Attributes:
        spans: start, end and weight of the trained ranges, in order and disjoint.
        starts: index of each trained message, and its first trained character.
        stops: ranges of the trained stop tokens.
        turns: ranges of the assistant turns.
    """

    spans: Sequence[tuple[_P, _P, float]]
    starts: Sequence[tuple[int, _P]]
    stops: Sequence[tuple[_P, _P]]
    turns: Sequence[tuple[_P, _P]]

    def map(self, to: Callable[[_P], _Q]) -> Boundaries[_Q]:
        """The same with each position converted by *to*."""
        return Boundaries(
            [(to(start), to(end), weight) for start, end, weight in self.spans],
            [(message, to(start)) for message, start in self.starts],
            [(to(start), to(end)) for start, end in self.stops],
            [(to(start), to(end)) for start, end in self.turns],
        )

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
    boundaries: Boundaries[Place]
    inserted: Sequence[str] = ()

    @property
    def positions(self) -> Boundaries[int]:
        """The boundaries in characters of the text."""
        before = [0, *accumulate(map(len, self.inserted))]
        return self.boundaries.map(lambda place: before[place[0]] + place[1])

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


class RenderedColumns(NamedTuple):
    """The rendered examples of many rows, one after another.

    Attributes:
        texts: the text of each example.
        owners: int64, (examples,): the number of its row.
        spans: what is trained; their owners are examples.
        turns: int64, (turns,): the number of the example of each turn.
        edges: int64, (turns, 2): start and end of each turn, in characters of its example.
    """

    texts: list[str]
    owners: Integers
    spans: SpanColumns
    turns: Integers
    edges: Integers

    @classmethod
    def from_rows(cls, rows: Sequence[RenderedConversation | RowError]) -> RenderedColumns:
        """Return the columns of *rows*; one with an error has no examples."""
        by_row = [() if isinstance(row, RowError) else row.examples for row in rows]
        examples = [*chain.from_iterable(by_row)]
        arrays = [example.boundaries.arrays for example in examples]
        inserted = [example.inserted for example in examples]
        before = _sums(map(len, chain.from_iterable(inserted)))
        first = _sums(map(len, inserted))

        def characters(places: list[Integers]) -> tuple[Integers, Integers]:
            """For each two of *places* the number of its example, and the characters of it at which they are."""
            owners = np.repeat(np.arange(len(places)), np.fromiter(map(len, places), np.int64, len(places)))
            flat = np.concatenate([np.empty((0, 2, 2), np.int64), *places])
            begin = first[owners][:, np.newaxis]
            return owners, before[begin + flat[:, :, 0]] - before[begin] + flat[:, :, 1]

        owners, spans = characters([spans for spans, _, _ in arrays])
        weights = np.concatenate([np.empty(0), *[weights for _, weights, _ in arrays]])
        return cls(
            [example.text for example in examples],
            np.repeat(np.arange(len(rows)), np.fromiter(map(len, by_row), np.int64, len(rows))),
            SpanColumns(owners, spans[:, 0], spans[:, 1], weights),
            *characters([turns for _, _, turns in arrays]),
        )


def _sums(numbers: Iterable[int]) -> Integers:
    """0, and the sum of *numbers* up to each."""
    return np.cumsum(np.fromiter(chain([0], numbers), np.int64))
