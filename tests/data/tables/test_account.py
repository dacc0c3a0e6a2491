"""The sum of what became of all rows."""

from __future__ import annotations

import pytest

from sftcore.data.tables.account import Account, account
from sftcore.data.tables.summary import Summary


def test_every_row_is_in_one_place():
    train, held_back = Summary(kept=10, dropped=5, too_long=3), Summary(kept=4, dropped=1)
    became = account(28, {"y": 1, "x": 1}, {"not drawn": 6}, train, held_back)
    dropped = {"not drawn": 6, "too long": 3, "without a trained token": 3}
    assert became == Account(28, 10, 4, {"x": 1, "y": 1}, dropped)
    assert str(became) == (
        "28 rows read: 10 trained, 4 evaluated, 2 refused, 6 not drawn, 3 too long, 3 without a trained token"
    )


def test_the_simplest_case_is_short():
    assert str(account(1034, {}, {}, Summary(kept=1034), Summary())) == "1,034 rows read: 1,034 trained"


@pytest.mark.parametrize("read", [9, 11])
def test_a_row_that_vanished_is_found(read):
    with pytest.raises(AssertionError, match=f"{read} rows were read, and 10 are accounted for"):
        account(read, {}, {"not drawn": 3}, Summary(kept=7), Summary())


def test_the_most_frequent_reason_is_the_first():
    became = account(6, {"a": 1, "b": 3, "c": 2}, {}, Summary(), Summary())
    assert list(became.refused.items()) == [("b", 3), ("c", 2), ("a", 1)]
