"""The rows of a step are the same on any number of ranks."""

from __future__ import annotations

import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from sftcore.core.types import IGNORE_INDEX
from sftcore.data.batching.padded_sampler import FILLER, Even, Evened, shuffled
from sftcore.data.row_types import Example

ROWS = [Example([number, number], [number, number], (2,), ()) for number in range(10)]


def steps(ranks: int, batch: int = 8, epoch: int = 1) -> list[list[int]]:
    """Return which rows all ranks train in each step of an epoch."""
    rows = Evened(ROWS, 0)
    rows.set_epoch(epoch)
    by = batch if ranks > 1 else 1
    even = Even(rows, lambda epoch: shuffled(len(ROWS), 7, epoch), by)
    whole = BatchSampler(even, batch // ranks, drop_last=False)
    if ranks == 1:  # accelerate leaves it alone
        return list(whole)
    parts = [list(BatchSamplerShard(whole, ranks, rank)) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1, "all ranks take as many steps"
    return [[row for part in step for row in part] for step in zip(*parts, strict=True)]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_step_has_the_same_rows_in_the_same_order(ranks):
    alone = steps(1)
    assert sorted(row for step in alone for row in step) == list(range(10))
    assert [[row for row in step if row != FILLER] for step in steps(ranks)] == alone


def test_an_epoch_has_an_order_of_its_own():
    assert steps(1, epoch=0) != steps(1, epoch=1) == steps(1, epoch=1)


def test_what_fills_up_trains_nothing():
    filler = Evened(ROWS, 5)[FILLER]
    assert list(filler.input_ids) == [5]
    assert list(filler.labels) == [IGNORE_INDEX]
    assert Evened(ROWS, 5)[3] is ROWS[3]
