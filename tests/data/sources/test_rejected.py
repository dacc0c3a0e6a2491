"""Rejected rows: how they are reported, counted and written."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from sftcore.data.row_types import Origin, UnreadableError
from sftcore.data.sources.rejected import MAX_REASON, RejectedRow, kind_of_reason, not_an_object


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
        ([{}], "expected one JSON object, not a list (if the whole file is one list, name it .json)"),
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
