"""Rows of a stream that are shuffled or packed together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sftcore.data.batching.packing import PackedSet
from sftcore.data.row_types import Example
from sftcore.data.tables.examples import Examples, SelectedRows
from sftcore.data.tables.table import Integers
from sftcore.data.training_set import RowOrder


class TrainedItems(NamedTuple):
    """What was trained of a window, in numbers; ``rows`` are the numbers of rows of each part."""

    items: int
    examples: int
    tokens: int
    trained_tokens: int
    rows: Sequence[Integers]


class ShuffleWindow:
    """Some rows of a stream, as items: examples, or rows that several of them share.

    Args:
        number: of the window; each has its own order.
        packed_length: tokens of a row that examples share; None without packing.
    """

    def __init__(self, parts: Sequence[SelectedRows], number: int, order: RowOrder, packed_length: int | None) -> None:
        self.parts = parts
        self._examples = Examples(parts)
        self._packed = PackedSet(self._examples, packed_length) if packed_length else None
        self._items: Sequence[tuple[int, ...]]
        if self._packed:
            bins = self._packed.bins
            self._items = bins.fixed() if order.sequential else bins.shuffled(order.seed, number)
        else:
            numbers = np.arange(len(self._examples))
            if not order.sequential:
                rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((order.seed % 2**64, number))))
                numbers = rng.permutation(numbers)
            self._items = [(at,) for at in numbers.tolist()]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Example]:
        for item in self._items:
            yield self._packed[item] if self._packed else self._examples[item[0]]

    def first_items(self, items: int) -> TrainedItems:
        """The first *items* in numbers."""
        numbers = np.array([number for at in range(items) for number in self._items[at]], np.int64)
        return TrainedItems(
            items,
            len(numbers),
            int(self._examples.lengths[numbers].sum()),
            int(self._examples.trained_tokens[numbers].sum()),
            self._examples.rows_of(numbers),
        )
