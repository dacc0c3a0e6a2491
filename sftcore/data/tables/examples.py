"""The examples of a set: numbers that point into tables, until one is accessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sftcore.data.batching.padded_sampler import MapStyleSet
from sftcore.data.row_types import Example, Origin
from sftcore.data.tables.table import Flags, Integers, Table


@dataclass(frozen=True, eq=False)
class SelectedRows:
    """The rows of one source in a set."""

    table: Table  # all rows of the source
    names: Sequence[str]  # of its files, as messages call them
    rows: Integers  # numbers of the rows in the set, in order
    times: Integers  # how often each is in an epoch

    @classmethod
    def all_of(cls, table: Table, names: Sequence[str]) -> SelectedRows:
        """All rows of *table*, once each."""
        return cls(table, names, np.arange(len(table)), np.ones(len(table), np.int64))

    def origin(self, row: int) -> Origin:
        """The origin of the row of this number in the table."""
        return Origin(self.names[self.table.file[row]], int(self.table.line[row]))

    def __getitem__(self, chosen: slice | Flags) -> SelectedRows:
        """Some of these rows."""
        return SelectedRows(self.table, self.names, self.rows[chosen], self.times[chosen])

    @property
    def keys(self) -> NDArray[np.void]:
        """Content key of each row."""
        return self.table.keys[self.rows]


class Examples(MapStyleSet):
    """The examples of some sources, as often as their rows: all of them come once before any comes a second time."""

    def __init__(self, parts: Sequence[SelectedRows]) -> None:
        self.parts = parts
        sizes = [len(part.table.row_of) for part in parts]
        numbers, owners = _concatenated([*map(np.arange, sizes)]), np.repeat(np.arange(len(parts)), sizes)
        row_times = [np.bincount(part.rows, part.times, len(part.table)).astype(np.int64) for part in parts]
        times = _concatenated([each[part.table.row_of] for each, part in zip(row_times, parts, strict=True)])
        rounds = [times > number for number in range(int(times.max(initial=0)))]
        self._numbers = _concatenated([numbers[taken] for taken in rounds])
        self._owners = _concatenated([owners[taken] for taken in rounds])

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]  # nothing slices
        number, part = int(self._numbers[index]), self.parts[int(self._owners[index])]
        return part.table.example(number, (part.origin(int(part.table.row_of[number])),))

    def rows_of(self, examples: Integers) -> list[Integers]:
        """For each part the numbers of the rows of *examples*, each once, in order."""
        numbers, owners = self._numbers[examples], self._owners[examples]
        return [np.unique(part.table.row_of[numbers[owners == at]]) for at, part in enumerate(self.parts)]

    def counts_of(self, examples: Integers) -> list[dict[str, int]]:
        """For each part the numbers of rows, examples, tokens and trained tokens of *examples*."""
        owners, lengths, trained = (column[examples] for column in (self._owners, self.lengths, self.trained_tokens))
        return [
            {
                "rows": len(rows),
                "examples": int((owners == at).sum()),
                "tokens": int(lengths[owners == at].sum()),
                "trained": int(trained[owners == at].sum()),
            }
            for at, rows in enumerate(self.rows_of(examples))
        ]

    def _column(self, name: str) -> Integers:
        values = np.zeros(len(self), np.int64)
        for number, part in enumerate(self.parts):
            own = self._owners == number
            values[own] = getattr(part.table, name)[self._numbers[own]]
        return values

    @cached_property
    def lengths(self) -> Integers:
        """Tokens of each example."""
        return self._column("lengths")

    @cached_property
    def trained_tokens(self) -> Integers:
        """Trained tokens of each example."""
        return self._column("trained_tokens")

    @property
    def full_lengths(self) -> Integers:
        """Tokens of each example before truncation, as far as the table has them: if it is the only one of its row."""
        longest = np.zeros(len(self), np.int64)
        for number, part in enumerate(self.parts):
            own = np.flatnonzero(self._owners == number)
            row = part.table.row_of[self._numbers[own]]
            single = part.table.examples[row] == 1
            longest[own[single]] = part.table.longest[row[single]]
        return np.maximum(self.lengths, longest)

    @property
    def dropped_lengths(self) -> Integers:
        """Tokens of each row that was too long, and of which nothing is left."""
        tables = [(part.table, part.rows) for part in self.parts]
        dropped = [(table, rows[(table.examples[rows] == 0) & table.too_long[rows]]) for table, rows in tables]
        return _concatenated([table.longest[rows] for table, rows in dropped])

    @property
    def weighted(self) -> bool:
        """Whether any trained token weighs other than 1."""
        return any(part.table.weighted for part in self.parts)


def _concatenated(parts: Sequence[Integers]) -> Integers:
    return np.concatenate([np.empty(0, np.int64), *parts])
