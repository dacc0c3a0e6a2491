"""The rows of an epoch in their order, the same for any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from itertools import repeat
from typing import Any

from sftcore.core.types import IGNORE_INDEX
from sftcore.data.row_types import Example
from sftcore.data.training_set import Progress, RowOrder, TrainingSet

PAD_ROW = -1  # the number of the row that trains nothing
RowIndex = int | tuple[int, ...]  # a row by its number, or by the numbers of its documents


class MapStyleSet(TrainingSet, Sequence[Example]):
    """Rows that are had by their number, as ``torch.utils.data`` calls it."""

    def order(self, order: RowOrder, epoch: int) -> Sequence[RowIndex]:
        """The rows of *epoch*; shuffled by seed and epoch alone."""
        return range(len(self)) if order.sequential else self.shuffled(order.seed, epoch)

    def shuffled(self, seed: int, epoch: int) -> Sequence[RowIndex]:
        """All rows in an order that follows from *seed* and *epoch* alone."""
        import torch

        order: list[int] = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        return order

    def trained(self, progress: Progress) -> list[RowIndex]:
        """The rows that a run has trained by now, each at least once."""
        size = len(self) - len(self) % progress.per_read
        steps = max(-(-size // progress.rows_per_step), 1)  # of an epoch
        if progress.steps >= steps and size == len(self) and not progress.untrained:
            return [*range(size)]
        rows: list[RowIndex] = []
        for epoch in range(-(-progress.steps // steps)):
            order = [*self.order(progress.order, epoch)][:size]
            for step in range(min(steps, progress.steps - epoch * steps)):
                if epoch * steps + step + 1 not in progress.untrained:
                    rows += order[step * progress.rows_per_step : (step + 1) * progress.rows_per_step]
        return rows

    def examples_of(self, rows: Sequence[RowIndex]) -> list[int]:
        """The numbers of the examples in *rows*, each once."""
        return sorted({number for row in rows for number in (row if isinstance(row, tuple) else (row,))})

    def to_dataset(self, pad_token_id: int, order: RowOrder, steps: int = 0) -> PaddedDataset:
        """These rows, padded where ranks would have different numbers of them."""
        return PaddedDataset(self, pad_token_id, order)


class PaddedDataset(Sequence[Example]):
    """Rows, and one more that trains nothing: it pads a step in which a rank would have less to do than the others.

    Otherwise some rows would be repeated there, and be trained twice. Its only token is *pad_token_id*; any will do.
    """

    callbacks: Sequence[Any] = ()
    rows_per_step = 1
    untrained: Set[int] = frozenset()

    def __init__(self, rows: MapStyleSet, pad_token_id: int, order: RowOrder) -> None:
        self.rows = rows
        self.weighted = rows.weighted
        self.epoch = 0
        self.order = order
        self._pad_row = Example([pad_token_id], [IGNORE_INDEX], (1,), ())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: RowIndex) -> Example:  # type: ignore[override]  # nothing slices
        return self._pad_row if row == PAD_ROW else self.rows[row]  # type: ignore[index]  # as the rows know it

    def set_epoch(self, epoch: int) -> None:
        """Go to *epoch*; accelerate calls this before each, also where a run resumes in the middle of one."""
        self.epoch = epoch

    def sampler(self, multiple: int) -> PaddedSampler:
        """The order of the rows of an epoch, padded to a *multiple* of rows."""
        return PaddedSampler(self, multiple)


class PaddedSampler:
    """The rows of an epoch in their order, then pad rows up to a *multiple*: the rows that all ranks take at a time."""

    def __init__(self, rows: PaddedDataset, multiple: int) -> None:
        self._rows, self._multiple = rows, multiple

    def __len__(self) -> int:
        return -(-len(self._rows) // self._multiple) * self._multiple

    def __iter__(self) -> Iterator[RowIndex]:
        yield from self._rows.rows.order(self._rows.order, self._rows.epoch)
        yield from repeat(PAD_ROW, len(self) - len(self._rows))
