"""The order of the rows of an epoch, the same for any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat

from sftcore.core.types import IGNORE_INDEX
from sftcore.data.row_types import Example

FILLER = -1
"""The number of the row that trains nothing."""

Row = int | tuple[int, ...]
"""A row by its number, or by the numbers of its documents."""


class Evened(Sequence[Example]):
    """Rows, and one more that trains nothing: it stands where a rank would have less to do in a step than the others.

    Otherwise some rows would be repeated there, and be trained twice.

    Args:
        token: any token, of which that row consists.
    """

    def __init__(self, rows: Sequence[Example], token: int) -> None:
        self.rows = rows
        self.epoch = 0
        self._filler = Example([token], [IGNORE_INDEX], (1,), ())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: Row) -> Example:  # type: ignore[override]  # nothing slices
        return self._filler if row == FILLER else self.rows[row]  # type: ignore[index]  # as the rows know it

    def set_epoch(self, epoch: int) -> None:
        """Go to *epoch*; accelerate calls this before each, also where a run resumes in the middle of one."""
        self.epoch = epoch


class Even:
    """A sampler: rows in *order*, and behind them so many that train nothing that there is a multiple of *by*.

    Args:
        order: gives the rows of an epoch.
        by: rows that all ranks take at a time.
    """

    def __init__(self, rows: Evened, order: Callable[[int], Sequence[Row]], by: int) -> None:
        self._rows, self._order, self._by = rows, order, by

    def __len__(self) -> int:
        return -(-len(self._rows) // self._by) * self._by

    def __iter__(self) -> Iterator[Row]:
        yield from self._order(self._rows.epoch)
        yield from repeat(FILLER, len(self) - len(self._rows))


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """Return the numbers below *count* in an order that follows from *seed* and *epoch* alone."""
    import torch

    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
    return order
