"""Rows that are held out, and rows that are in both sets."""

from __future__ import annotations

import pytest

from sftcore.core.errors import DataError
from sftcore.data.selection import exclude, holdout

from ..making import keys, said


def test_equal_rows_of_several_sources_stay_on_one_side():
    parts = [keys(*map(str, range(50))), keys(*map(str, range(25, 75))), keys(*map(str, range(75)))]
    chosen = holdout(parts, 0.3, 42)
    both = list(zip(parts, chosen, strict=True))
    train, held_out = ({text for part, held in both for text in said(part[held == side])} for side in (False, True))
    assert not train & held_out
    assert train | held_out == set(map(str, range(75)))
    assert [len(held) for held in chosen] == [50, 50, 75]
    assert 40 <= sum(held.sum() for held in chosen) <= 65  # of 175, rows of one content together


@pytest.mark.parametrize("seed", range(10))
def test_both_sides_have_rows(seed):
    for fraction in (0.01, 0.5, 0.99):
        [held_out] = holdout([keys("a", "b", "b", "b")], fraction, seed)
        assert 0 < held_out.sum() < 4


@pytest.mark.parametrize("parts", [[keys("a", "a")], [keys("a"), keys("a")]])
def test_one_content_cannot_be_parted(parts):
    with pytest.raises(DataError, match="all rows are equal"):
        holdout(parts, 0.5, 42)


def test_rows_that_are_evaluated_are_excluded():
    parts = [keys("a", "b", "c"), keys("b", "d", "b")]
    left = exclude(parts, [keys("b"), keys("c", "x")])
    assert [said(part[kept]) for part, kept in zip(parts, left, strict=True)] == [["a"], ["d"]]
