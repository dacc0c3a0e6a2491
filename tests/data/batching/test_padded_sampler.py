"""The rows of a step are the same on any number of ranks."""

from __future__ import annotations

import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from sftcore.core.types import IGNORE_INDEX
from sftcore.data.batching.padded_sampler import PAD_ROW, MapStyleSet
from sftcore.data.row_types import Example
from sftcore.data.training_set import RowOrder


class Rows(MapStyleSet):
    weighted = False

    def __init__(self):
        self.rows = [Example([number, number], [number, number], (2,), ()) for number in range(10)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row]


ROWS = Rows()
SHUFFLED = RowOrder(7, sequential=False)


def steps(ranks: int, batch: int = 8, epoch: int = 1) -> list[list[int]]:
    """Return which rows all ranks train in each step of an epoch."""
    rows = ROWS.to_dataset(0, SHUFFLED)
    rows.set_epoch(epoch)
    whole = BatchSampler(rows.sampler(batch if ranks > 1 else 1), batch // ranks, drop_last=False)
    if ranks == 1:  # accelerate leaves it alone
        return list(whole)
    parts = [list(BatchSamplerShard(whole, ranks, rank)) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1, "all ranks take as many steps"
    return [[row for part in step for row in part] for step in zip(*parts, strict=True)]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_step_has_the_same_rows_in_the_same_order(ranks):
    alone = steps(1)
    assert sorted(row for step in alone for row in step) == list(range(10))
    assert [[row for row in step if row != PAD_ROW] for step in steps(ranks)] == alone


def test_an_epoch_has_an_order_of_its_own():
    assert steps(1, epoch=0) != steps(1, epoch=1) == steps(1, epoch=1)


def test_a_pad_row_trains_nothing():
    rows = ROWS.to_dataset(5, SHUFFLED)
    assert list(rows[PAD_ROW].input_ids) == [5]
    assert list(rows[PAD_ROW].labels) == [IGNORE_INDEX]
    assert rows[3] is ROWS[3]


def test_rows_in_order_are_those_of_every_epoch():
    rows = ROWS.to_dataset(0, RowOrder())
    rows.set_epoch(2)
    assert list(rows.sampler(4)) == [*range(10), PAD_ROW, PAD_ROW]
