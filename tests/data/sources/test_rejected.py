"""Rejected rows: how they are reported, counted and written, and how many a run tolerates."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from sftcore.core.errors import DataError
from sftcore.data.row_types import Origin
from sftcore.data.sources.readers import UnreadableError
from sftcore.data.sources.rejected import MAX_REASON, SHOWN, RejectedRow, check_bad_rows, kind_of_reason, not_an_object


def rejected(line, reason="x", **more):
    return RejectedRow.for_reason(Origin("f", line), reason, **more)


def test_the_reasons_are_counted_without_their_places():
    reasons = [
        "message 2: the key 'content' is missing",
        "message 13: the key 'content' is missing",
        "not valid JSON: Expecting value: line 1 column 1 (char 0)",
        "not valid JSON: Expecting value: line 1 column 1234 (char 1233)",
        "not valid JSON: Expecting value: line 1 column 9 (char 8)",
        "not valid UTF-8: invalid start byte at byte 7",
        "about message 2: odd",
        "not valid JSON: Expecting value at column 5",
        "not valid JSON: Expecting value at line 3, column 8",
        "message 2 of 'messages' must be an object, not null",
        "message 31 of 'messages' must be an object, not null",
        "pair 1 must be two strings",
        "pair 2 must be two strings",
    ]
    assert Counter(map(kind_of_reason, reasons)).most_common() == [
        ("not valid JSON: Expecting value", 5),
        ("the key 'content' is missing", 2),
        ("message of 'messages' must be an object, not null", 2),
        ("pair must be two strings", 2),
        ("not valid UTF-8: invalid start byte", 1),
        ("about message 2: odd", 1),
    ]


def test_a_reason_can_be_printed_and_is_not_endless():
    assert rejected(1, "no '\ud83d'").reason == "no '\\ud83d'"
    assert rejected(1, "x" * MAX_REASON).reason == "x" * MAX_REASON
    assert rejected(1, "x" * 12345).reason == "x" * MAX_REASON + "... (12,345 characters)"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("x", "expected one JSON object, not a string"),
        (None, "expected one JSON object, not null"),
        ([{}], "expected one JSON object, not a list (is the whole file one list? then name it .json)"),
        (UnreadableError("not valid JSON", "{"), "not valid JSON"),
    ],
)
def test_a_row_that_is_not_an_object_is_rejected(row, reason):
    assert str(not_an_object(Origin("f", 3), row)) == f"f:3: {reason}"


def nested(depth):
    value = "x"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("more", "written"),
    [
        ({"row": {"a": "é 你\n"}}, {"row": {"a": "é 你\n"}}),
        ({"row": {"a": "\ud83d"}}, {"row": {"a": "\ud83d"}}),
        ({"row": {"a": b"x"}}, {"row": {"a": "b'x'"}}),
        ({"row": None}, {"row": None}),
        ({"raw": "{\\xff\u2028"}, {"raw": "{\\xff\u2028"}),
    ],
)
def test_one_line_of_json(more, written):
    line = rejected(3, "é", **more).to_json()
    assert "\n" not in line
    assert json.loads(line.encode()) == {"reason": "é", **written}


def test_a_deep_row_can_be_written():
    line = rejected(3, row=nested(1500)).to_json()
    assert line.count("[") == line.count("]") == 1500


def checked(number, read, most):
    """Check that many malformed rows, of which 20 each have one reason; the rarest stand first among the reasons."""
    found = [rejected(line, f"x {line // 20}") for line in range(number)]
    kinds = Counter(kind_of_reason(bad.reason) for bad in found)
    check_bad_rows(found[:SHOWN], dict(sorted(kinds.items(), key=lambda item: item[1])), read, most)


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
