"""Rows that are held back, and rows that are in both sets."""

from __future__ import annotations

import pytest

from sftcore import Conversation, DataError, Message, Origin
from sftcore.data.content import key
from sftcore.data.conversations import Parsed
from sftcore.data.evaluation import hold_back, keep_out


def rows(*texts):
    talks = [Conversation((Message("user", text), Message("assistant", "a"))) for text in texts]
    return [Parsed(talk, Origin("f", line), key=key(talk)) for line, talk in enumerate(talks, start=1)]


def texts(part):
    return [row.conversation.messages[0].content for row in part]


def test_equal_rows_of_several_sources_stay_on_one_side():
    parts = [rows(*map(str, range(50))), rows(*map(str, range(25, 75))), rows(*map(str, range(75)))]
    train, held_back = hold_back(parts, 0.3, 42)
    sides = [{text for part in side for text in texts(part)} for side in (train, held_back)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set(map(str, range(75)))
    for part, one, other in zip(parts, train, held_back, strict=True):
        assert sorted(texts(one) + texts(other)) == sorted(texts(part))
    assert 40 <= sum(map(len, held_back)) <= 65  # of 175, rows of one content together


@pytest.mark.parametrize("seed", range(10))
def test_both_sides_have_rows(seed):
    for fraction in (0.01, 0.5, 0.99):
        train, held_back = hold_back([rows("a", "b", "b", "b")], fraction, seed)
        assert all(train)
        assert all(held_back)


@pytest.mark.parametrize("parts", [[rows("a", "a")], [rows("a"), rows("a")]])
def test_one_content_cannot_be_parted(parts):
    with pytest.raises(DataError, match="all rows are equal"):
        hold_back(parts, 0.5, 42)


def test_rows_that_are_evaluated_are_kept_out():
    parts = [rows("a", "b", "c"), rows("b", "d", "b")]
    assert [texts(part) for part in keep_out(parts, [rows("b"), rows("c", "x")])] == [["a"], ["d"]]
