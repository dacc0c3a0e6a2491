"""The examples of a set: numbers that point into tables, until one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sftcore.data.batching.padded_sampler import MapStyleSet
from sftcore.data.row_types import Example, Origin
from sftcore.data.tables.table import Integers, Table


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of one source in a set.

    Attributes:
        table: all rows of the source.
        names: of its files, as messages call them.
        rows: the numbers of those in the set, in order.
        times: how often each stands in an epoch.
    """

    table: Table
    names: Sequence[str]
    rows: Integers
    times: Integers

    def origin(self, row: int) -> Origin:
        """Return the place of the *row* of this number in the table."""
        return Origin(self.names[self.table.file[row]], int(self.table.line[row]))

    @property
    def examples(self) -> tuple[Integers, Integers]:
        """The numbers of all examples of the rows, in order, and how often each stands in an epoch."""
        counts = self.table.examples[self.rows]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(self.table.first_example[self.rows], counts) + within, np.repeat(self.times, counts)


class Examples(MapStyleSet):
    """The examples of some sources, those of a row that is repeated each time.

    All of them stand once before any stands a second time.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        found = [part.examples for part in parts]
        numbers = _joined([numbers for numbers, _ in found])
        times = _joined([times for _, times in found])
        owners = np.repeat(np.arange(len(parts)), [len(numbers) for numbers, _ in found])
        rounds = [times > number for number in range(int(times.max(initial=0)))]
        self._numbers = _joined([numbers[taken] for taken in rounds])
        self._owners = _joined([owners[taken] for taken in rounds])

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]  # nothing slices
        number, part = int(self._numbers[index]), self.parts[self._owners[index]]
        tokens = part.table.tokens(number)
        origin = part.origin(int(part.table.row_of[number]))
        return Example(tokens.input_ids, tokens.labels, (len(tokens.labels),), (origin,), tokens.weights)

    def rows_of(self, examples: Integers) -> list[Integers]:
        """Return for each part the numbers of the rows that *examples* were made of, each once, in order."""
        numbers, owners = self._numbers[examples], self._owners[examples]
        return [np.unique(part.table.row_of[numbers[owners == at]]) for at, part in enumerate(self.parts)]

    def _of_each(self, name: str) -> Integers:
        found = np.zeros(len(self), np.int64)
        for number, part in enumerate(self.parts):
            here = self._owners == number
            found[here] = getattr(part.table, name)[self._numbers[here]]
        return found

    @cached_property
    def lengths(self) -> Integers:
        """Of each example its tokens."""
        return self._of_each("lengths")

    @cached_property
    def trained_tokens(self) -> Integers:
        """Of each example the tokens that are trained."""
        return self._of_each("trained_tokens")

    @property
    def before(self) -> Integers:
        """Of each example its tokens; of one whose row has a longer one that was made to fit, those of that."""
        return np.maximum(self.lengths, self._longest)

    @property
    def dropped(self) -> Integers:
        """The tokens of each row that was too long, and of which nothing is left."""
        tables = [(part.table, part.rows) for part in self.parts]
        gone = [(table, rows[(table.examples[rows] == 0) & table.too_long[rows]]) for table, rows in tables]
        return _joined([table.longest[rows] for table, rows in gone])

    @cached_property
    def _longest(self) -> Integers:
        found = np.zeros(len(self), np.int64)
        for number, part in enumerate(self.parts):
            here = np.flatnonzero(self._owners == number)
            row = part.table.row_of[self._numbers[here]]
            alone = part.table.examples[row] == 1
            found[here[alone]] = part.table.longest[row[alone]]
        return found

    @property
    def weighted(self) -> bool:
        """Whether any trained token weighs other than 1."""
        return any(part.table.weighted for part in self.parts)


def _joined(parts: Sequence[Integers]) -> Integers:
    return np.concatenate([np.empty(0, np.int64), *parts])
