"""The rendered examples of many rows, as columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from sftcore.core.errors import RowError
from sftcore.labelling.rendered import Integers, RenderedConversation
from sftcore.labelling.spans import SpanColumns


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
