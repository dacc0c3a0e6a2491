"""The account of all rows adds up."""

from __future__ import annotations

import pytest

from sftcore.data.tables.account import Account, RowTotals, make_account
from sftcore.data.tables.summary import Summary


def test_every_row_is_in_one_place():
    train, held_out = Summary(kept=10, dropped=5, too_long=3), Summary(kept=4, dropped=1)
    became = make_account([RowTotals(28, bad={"y": 1}, unlabelled={"x": 1})], {"not sampled": 6}, train, held_out)
    dropped = {"not sampled": 6, "too long": 3, "without a trained token": 3}
    assert became == Account(28, 10, 4, {"x": 1, "y": 1}, dropped)
    assert str(became) == (
        "28 rows read: 10 trained, 4 evaluated, 2 rejected, 6 not sampled, 3 too long, 3 without a trained token"
    )


def test_the_simplest_case_is_short():
    assert str(make_account([RowTotals(1034)], {}, Summary(kept=1034), Summary())) == "1,034 rows read: 1,034 trained"


@pytest.mark.parametrize("read", [9, 11])
def test_a_row_that_vanished_is_found(read):
    with pytest.raises(AssertionError, match=f"{read} rows were read, and 10 are accounted for"):
        make_account([RowTotals(read)], {"not sampled": 3}, Summary(kept=7), Summary())


def test_the_most_frequent_reason_is_the_first():
    became = make_account(
        [RowTotals(2, bad={"a": 1, "b": 1}), RowTotals(4, bad={"b": 2, "c": 2})], {}, Summary(), Summary()
    )
    assert list(became.rejected.items()) == [("b", 3), ("c", 2), ("a", 1)]
