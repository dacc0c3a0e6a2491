from __future__ import annotations

import pickle
from copy import copy

import pytest

from sftcore import Conversation, Message, RowError
from sftcore.core.types import PlainMessages
from sftcore.data.row_types import Origin
from sftcore.rows import CALLS, ROLES, is_call, parse_role


@pytest.mark.parametrize(
    ("role", "spellings"),
    [
        ("system", ["system", "developer", "System"]),
        ("user", ["user", "human", "USER", "Human ", "prompter"]),
        ("assistant", ["assistant", "gpt", "model", "bot", "AI", "assistant ", "chatbot"]),
        ("tool", ["tool", "function", "observation", "ipython", "tool_response", "toolResponse", "Tool Result"]),
    ],
)
def test_every_spelling_of_a_role(role: str, spellings: list[str]) -> None:
    assert [parse_role(spelling) for spelling in spellings] == [role] * len(spellings)


@pytest.mark.parametrize(
    ("spelling", "problem"),
    [
        ("asistant", "unknown role 'asistant'; did you mean 'assistant'?"),
        (
            "xyz",
            "unknown role 'xyz' (known: system, developer, user, human, prompter, assistant, gpt, model, bot, ai, ",
        ),
        ("tool_cal", "unknown role 'tool_cal' (known: "),
        ("tool_request", "unknown role 'tool_request' (known: "),
        ("functions", "unknown role 'functions' (known: "),
        ("tool_call", "unknown role 'tool_call' (known: "),
        (7, "unknown role 7 (known: "),
        (None, "unknown role None (known: "),
        (["user"], "unknown role ['user'] (known: "),
    ],
)
def test_an_unknown_role_is_an_error(spelling: object, problem: str) -> None:
    with pytest.raises(RowError) as error:
        parse_role(spelling)
    assert str(error.value).startswith(problem)


def test_a_call_is_not_a_result() -> None:
    assert all(map(is_call, [*CALLS, "toolCall", "Function Call", "TOOL_USE"]))
    assert not any(map(is_call, [*ROLES, 7, None, "tool_cal"]))


def test_plain_messages_equal_the_messages_that_they_create() -> None:
    texts, messages = (
        PlainMessages(["user", "assistant"], ["q", "a"]),
        (Message("user", "q"), Message("assistant", "a")),
    )
    for found in (texts, copy(texts), pickle.loads(pickle.dumps(texts))):
        assert found == messages == found
        assert (hash(found), repr(found), len(found)) == (hash(messages), repr(messages), 2)
        assert (found[-1], found[:1], [*found], [*reversed(found)]) == (
            messages[1],
            messages[:1],
            [*messages],
            [*messages[::-1]],
        )
        assert found[0] is found[0]
    assert texts == PlainMessages(["user", "assistant"], ["q", "a"]) != PlainMessages(["user", "assistant"], ["q", "b"])
    assert Conversation.from_messages(texts) == Conversation(messages) != Conversation.from_messages(texts[:1])
    with pytest.raises(IndexError):
        texts[2]


def test_a_message_as_dict_has_only_the_fields_that_are_set() -> None:
    assert Message("assistant", "").to_dict() == {"role": "assistant", "content": ""}


def test_a_message_as_dict_has_all_fields_that_are_set() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    message = Message("assistant", "c", reasoning_content="r", tool_calls=(call,), name="n", tool_call_id="1")
    assert message.to_dict() == {
        "role": "assistant",
        "content": "c",
        "reasoning_content": "r",
        "tool_calls": [call],
        "name": "n",
        "tool_call_id": "1",
    }


def test_a_message_as_dict_has_no_training_fields() -> None:
    assert Message("user", "c", train=True, weight=0.5).to_dict() == {"role": "user", "content": "c"}


def test_an_origin_prints_as_file_and_line() -> None:
    assert str(Origin("a/b.jsonl", 3)) == "a/b.jsonl:3"
