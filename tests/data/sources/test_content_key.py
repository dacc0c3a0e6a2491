"""Keys by content: what makes two conversations equal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sftcore import Conversation, Message, RowError
from sftcore.data.sources.content_key import MAX_DEPTH, content_key

CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
TALK = Conversation((Message("user", "q"), Message("assistant", "a")))


def with_answer(**fields):
    return replace(TALK, messages=(TALK.messages[0], replace(TALK.messages[1], **fields)))


def test_how_a_row_is_trained_is_not_in_the_content_key():
    assert (
        content_key(TALK)
        == content_key(with_answer(train=True, weight=0.5))
        == content_key(replace(TALK, template_kwargs={"a": 1}))
    )


def test_everything_else_is_in_the_content_key():
    others = [
        TALK,
        Conversation(TALK.messages[:1]),
        Conversation((*TALK.messages, *TALK.messages)),
        Conversation(TALK.messages[::-1]),
        Conversation((Message("user", "qa"), Message("assistant", ""))),
        Conversation((Message("user", "qassistanta"),)),
        Conversation((Message("system", "q"), Message("assistant", "a"))),
        with_answer(content="a "),
        with_answer(reasoning_content="r"),
        with_answer(name="r"),
        with_answer(tool_call_id="r"),
        with_answer(tool_calls=(CALL,)),
        with_answer(tool_calls=({**CALL, "id": "1"},)),
        replace(TALK, tools=(CALL,)),
        replace(TALK, tools=(CALL, CALL)),
    ]
    assert len({content_key(conversation) for conversation in others}) == len(others)


@pytest.mark.parametrize(
    "conversation",
    [with_answer(content="a\ud83d"), with_answer(name="\ud83d"), replace(TALK, tools=({"name": "\ud83d"},))],
)
def test_half_a_character(conversation):
    with pytest.raises(RowError, match=r"the text has the lone surrogate '\\ud83d'"):
        content_key(conversation)


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": [value]}
    return value


@pytest.mark.parametrize("depth", [MAX_DEPTH // 2, 5000])
@pytest.mark.parametrize(
    "place",
    [
        lambda value: with_answer(tool_calls=(value,)),
        lambda value: replace(TALK, tools=(value,)),
        lambda value: replace(TALK, template_kwargs={"a": value}),
    ],
)
def test_what_is_nested_too_deeply(place, depth):
    with pytest.raises(RowError, match=f"is nested more than {MAX_DEPTH} levels deep"):
        content_key(place(nested(depth)))
    content_key(place(nested(MAX_DEPTH // 2 - 1)))
