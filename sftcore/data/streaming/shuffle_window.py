"""Rows of a stream that wait together, and the order in which they are trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sftcore.data.batching.packing import PackedSet
from sftcore.data.row_types import Example
from sftcore.data.tables.examples import Examples, Part
from sftcore.data.tables.table import Integers
from sftcore.data.training_set import RowOrder


class Trained(NamedTuple):
    """What was trained of a window: numbers of examples, of their tokens, and of those that are trained; and rows.

    ``rows`` are the numbers of rows of each part.
    """

    items: int
    examples: int
    tokens: int
    trained: int
    rows: Sequence[Integers]


class Window:
    """Some rows of a stream, as items: examples, or what several of them are joined to.

    Args:
        number: of the window; each has an order of its own.
        packed_length: tokens of a row that examples share; None without packing.
    """

    def __init__(self, parts: Sequence[Part], number: int, order: RowOrder, packed_length: int | None) -> None:
        self.parts = parts
        self._examples = Examples(parts)
        self._packed = PackedSet(self._examples, packed_length) if packed_length else None
        self._items: Sequence[tuple[int, ...]]
        if self._packed:
            bins = self._packed.bins
            self._items = bins.fixed() if order.sequential else bins.drawn(order.seed, number)
        else:
            numbers = np.arange(len(self._examples))
            if not order.sequential:
                chance = np.random.Generator(np.random.PCG64(np.random.SeedSequence((order.seed % 2**64, number))))
                numbers = chance.permutation(numbers)
            self._items = [(at,) for at in numbers.tolist()]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Example]:
        for item in self._items:
            yield self._packed[item] if self._packed else self._examples[item[0]]

    def trained(self, items: int) -> Trained:
        """Return what the first *items* are."""
        numbers = np.array([number for at in range(items) for number in self._items[at]], np.int64)
        return Trained(
            items,
            len(numbers),
            int(self._examples.lengths[numbers].sum()),
            int(self._examples.trained_tokens[numbers].sum()),
            self._examples.rows_of(numbers),
        )
