"""The fields of a row that work in every format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from sftcore import Format, Message, RowError
from sftcore.data.sources.row_fields import read_conversation


@dataclass
class Pair(Format):
    def parse(self, row: Mapping[str, Any]) -> list[Message]:
        turns = [Message("user", row["q"]), Message("assistant", row["a"])]
        return [Message("system", row["inner"]), *turns] if "inner" in row else turns


ROW = {"q": "Hi", "a": "Ho"}
TOOL = {"name": "f", "parameters": {}}
WRAPPED = {"type": "function", "function": TOOL}


@pytest.mark.parametrize(
    ("more", "roles"),
    [
        ({}, ["user", "assistant"]),
        ({"system": None}, ["user", "assistant"]),
        ({"system": ""}, ["user", "assistant"]),
        ({"system": "Be brief."}, ["system", "user", "assistant"]),
        ({"system": "Be brief.", "inner": "Be brief."}, ["system", "user", "assistant"]),
    ],
)
def test_the_system_field_works_in_every_format(more: dict[str, Any], roles: list[str]) -> None:
    messages = read_conversation(Pair(), {**ROW, **more}).messages
    assert [message.role for message in messages] == roles
    if more.get("system"):
        assert messages[0].content == "Be brief."


@pytest.mark.parametrize(
    "tools", [[TOOL], [{"type": "function", "function": TOOL}], json.dumps([TOOL])], ids=["bare", "wrapped", "text"]
)
def test_the_tools_field_works_in_every_format(tools: object) -> None:
    assert read_conversation(Pair(), {**ROW, "tools": tools}).tools == ({"type": "function", "function": TOOL},)


@pytest.mark.parametrize("tools", [None, "", [], "[]"])
def test_no_tools(tools: object) -> None:
    assert read_conversation(Pair(), {**ROW, "tools": tools}).tools == ()


@pytest.mark.parametrize(
    ("value", "kwargs"),
    [
        ({"enable_thinking": False}, {"enable_thinking": False}),
        ('{"enable_thinking": false}', {"enable_thinking": False}),
        ({}, {}),
        ("{}", {}),
        (" ", {}),
        (None, {}),
    ],
)
def test_the_template_variables_of_a_row_work_in_every_format(value: object, kwargs: dict[str, Any]) -> None:
    assert read_conversation(Pair(), {**ROW, "chat_template_kwargs": value}).template_kwargs == kwargs


def test_a_row_without_template_variables() -> None:
    assert read_conversation(Pair(), ROW).template_kwargs == {}


@pytest.mark.parametrize("name", ["messages", "tools", "documents", "add_generation_prompt", "conversations", "loop"])
def test_a_row_cannot_set_what_rendering_sets(name: str) -> None:
    with pytest.raises(RowError, match=f"'chat_template_kwargs' must not have '{name}': it is a name that "):
        read_conversation(Pair(), {**ROW, "chat_template_kwargs": {"enable_thinking": False, name: []}})


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"system": 3}, "'system' must be a string, not a number"),
        ({"system": "A", "inner": "B"}, "has a 'system' field and a different system message"),
        ({"tools": "[{"}, "'tools' is not valid JSON"),
        ({"tools": {"name": "f"}}, "'tools' must be a list of objects, not an object"),
        ({"tools": ["f"]}, "tool 1 of 'tools': must be an object, not a string"),
        (
            {"tools": [TOOL, '{"name": "f", "name": "g"}']},
            "tool 2 of 'tools': its text is not valid JSON: ",
        ),
        ({"tools": "[" * 9999}, "'tools' is not valid JSON: maximum recursion depth exceeded"),
        ({"chat_template_kwargs": {"my-key": 1}}, "must not have 'my-key': it is not a name that a chat template can"),
        ({"chat_template_kwargs": {"": 1}}, "must not have '': it is not a name that a chat template can read"),
        ({"tools": [TOOL, {}]}, "tool 2 of 'tools': the 'name' is missing"),
        (
            {"tools": [{"type": "function", "function": None}]},
            "tool 1 of 'tools': 'function' must be an object, not null",
        ),
        ({"tools": [{"name": " "}]}, "tool 1 of 'tools': the 'name' is missing"),
        ({"tools": [{"name": "f", "parameters": []}]}, "tool 1 of 'tools': 'parameters' of 'f' must be an object"),
        ({"tools": '[{"name": "f", "name": "g"}]'}, "'tools' is not valid JSON: the key 'name' appears twice"),
        ({"chat_template_kwargs": '{"x": NaN}'}, "'chat_template_kwargs' is not valid JSON: NaN is not a number"),
        ({"tools": [TOOL], "functions": [{"name": "g"}]}, "'tools' and 'functions' differ; keep one of them"),
        ({"system": "A", "system_prompt": "B"}, "'system' and 'system_prompt' differ; keep one of them"),
        ({"weight": -1}, "'weight' must be a finite number of at least 0, not -1"),
        ({"train": "no"}, "'train' must be true or false, not a string"),
        ({"loss": 0.7}, "'loss' must be true or false, not a number"),
        ({"train": True, "loss": False}, "'train' is True and 'loss' is False; keep one of them"),
        ({"chat_template_kwargs": 3}, "'chat_template_kwargs' must be an object, not a number"),
        ({"chat_template_kwargs": []}, "'chat_template_kwargs' must be an object, not a list"),
        ({"chat_template_kwargs": "7"}, "'chat_template_kwargs' must be an object, not a number"),
        ({"chat_template_kwargs": "{"}, "'chat_template_kwargs' is not valid JSON"),
        ({"chat_template_kwargs": {"self": 1}}, "'chat_template_kwargs' must not have 'self'"),
        ({"chat_template_kwargs": {1: 2}}, "must not have 1: it is not a name that a chat template can read"),
    ],
)
def test_a_malformed_row_is_a_row_error_with_the_reason(more: dict[str, Any], problem: str) -> None:
    with pytest.raises(RowError, match=problem.replace("[", r"\[")):
        read_conversation(Pair(), {**ROW, **more})


@pytest.mark.parametrize(
    ("fields", "train", "weight"),
    [
        ({"weight": 0}, None, 0.0),
        ({"loss_weight": 0.5}, None, 0.5),
        ({"weight": 2, "train": False}, False, 2.0),
        ({"loss": True}, None, 1.0),  # which messages are trained is left to train_on
        ({"trainable": 0}, False, 1.0),
        ({"train": None, "weight": None}, None, 1.0),
    ],
)
def test_training_fields_of_a_row_hold_for_its_messages(
    fields: dict[str, Any], train: bool | None, weight: float
) -> None:
    messages = read_conversation(Pair(), {**ROW, **fields}).messages
    assert [(message.train, message.weight) for message in messages] == [(train, weight)] * 2


def test_a_messages_own_train_wins_and_weights_multiply() -> None:
    class Weighted(Format):
        def parse(self, row: Mapping[str, Any]) -> list[Message]:
            return [Message("user", "q"), Message("assistant", "a", train=True, weight=0.5)]

    user, answer = read_conversation(Weighted(), {"train": False, "weight": 3}).messages
    assert (user.train, user.weight, answer.train, answer.weight) == (False, 3.0, True, 1.5)


def test_other_names_of_the_fields() -> None:
    found = read_conversation(Pair(), {**ROW, "system_prompt": "S", "functions": [TOOL], "parallel_tool_calls": False})
    assert (found.messages[0], found.tools) == (Message("system", "S"), (WRAPPED,))
    assert found.template_kwargs == {"parallel_tool_calls": False}


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", **TOOL},
        {"name": "f", "inputSchema": {}},
        '{"name": "f", "parameters": {}}',
        {"function": {"name": "f", "parameters": {}}},
        {"name": "f", "input_schema": {}},
        {"type": "function", "function": {"name": "f", "inputSchema": {}}},
    ],
)
def test_other_forms_of_a_tool_become_that_of_openais_api(tool: Any) -> None:
    assert read_conversation(Pair(), {**ROW, "tools": [tool]}).tools == (WRAPPED,)


def test_a_tool_without_a_schema_and_one_of_another_type_stay() -> None:
    tools = [{"name": "f", "parameters": None}, {"type": "code_interpreter"}]
    expected = ({"type": "function", "function": {"name": "f"}}, {"type": "code_interpreter"})
    assert read_conversation(Pair(), {**ROW, "tools": tools}).tools == expected
