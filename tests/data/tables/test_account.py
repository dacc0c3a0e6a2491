"""The account of all rows adds up, and a run tolerates malformed ones up to a limit."""

from __future__ import annotations

from collections import Counter

import pytest

from sftcore.core.errors import DataError
from sftcore.data.sources.rejected import SHOWN
from sftcore.data.tables.account import Account, BadRowLimit, RowTotals, make_account
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


def checked(number, read, most):
    """Check that many malformed rows, of which 20 each have one reason; the rarest stand first among the reasons."""
    kinds = Counter(f"x {line // 20}" for line in range(number))
    first = [(0, line, f"x {line // 20}") for line in range(number)][:SHOWN]
    limit = BadRowLimit(most)
    limit.add(RowTotals(read, bad=dict(sorted(kinds.items(), key=lambda item: item[1])), first_bad=first), ["f"])
    limit.check()


@pytest.mark.parametrize(
    ("number", "read", "most"), [(0, 0, 0), (0, 9, 0), (3, 9, 3), (1, 1, 1), (3, 9, 1 / 3), (10, 1000, 0.01)]
)
def test_bad_rows_up_to_the_limit_are_tolerated(number, read, most):
    checked(number, read, most)


@pytest.mark.parametrize(("number", "read", "most"), [(1, 9, 0), (4, 9, 3), (2, 2, 1), (4, 9, 1 / 3), (11, 1000, 0.01)])
def test_one_bad_row_above_the_limit_ends_the_run(number, read, most):
    with pytest.raises(DataError, match=f"^{number} rows? cannot be used"):
        checked(number, read, most)


def test_a_few_bad_rows_are_all_listed():
    with pytest.raises(DataError) as raised:
        checked(2, 9, 0)
    assert str(raised.value) == "2 rows cannot be used; fix or remove:\n  f:0: x 0\n  f:1: x 0"


@pytest.mark.parametrize(("most", "told"), [(0.001, "0.10% of 4,000 rows"), (12, "12")])
def test_of_many_bad_rows_the_first_are_listed_and_all_are_counted(most, told):
    with pytest.raises(DataError) as raised:
        checked(230, 4000, most)
    head, *lines = str(raised.value).splitlines()
    assert head == "230 rows cannot be used; fix or remove:"
    assert lines[: SHOWN + 1] == [*(f"  f:{line}: x 0" for line in range(SHOWN)), "  ... and 220 more"]
    assert lines[SHOWN + 1 : -1] == [*(f"      20 x x {kind}" for kind in range(SHOWN)), "      30 x other reasons"]
    assert lines[-1] == f"  data.max_bad_rows is {told}"


def test_the_message_names_max_bad_rows():
    with pytest.raises(
        DataError, match=r"\n      11 x x 0\n  data.max_bad_rows lets a run continue without malformed rows$"
    ):
        checked(11, 11, 0)
