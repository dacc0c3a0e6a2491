from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from sftcore import Backend, Format, Message, Method, RowError, Template, Tracker
from sftcore.core.components import KINDS, Component


@dataclass
class Pair(Format):
    def parse(self, row: Mapping[str, Any]) -> list[Message]:
        turns = [Message("user", row["q"]), Message("assistant", row["a"])]
        return [Message("system", row["inner"]), *turns] if "inner" in row else turns


ROW = {"q": "Hi", "a": "Ho"}
TOOL = {"name": "f", "parameters": {}}


def test_every_kind_is_a_component() -> None:
    assert list(KINDS) == ["format", "template", "method", "tracker", "backend"]
    assert all(issubclass(kind, Component) for kind in KINDS.values())


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
    messages = Pair().read({**ROW, **more}).messages
    assert [message.role for message in messages] == roles
    if more.get("system"):
        assert messages[0].content == "Be brief."


@pytest.mark.parametrize(
    "tools", [[TOOL], [{"type": "function", "function": TOOL}], json.dumps([TOOL])], ids=["bare", "wrapped", "text"]
)
def test_the_tools_field_works_in_every_format(tools: object) -> None:
    assert Pair().read({**ROW, "tools": tools}).tools == ({"type": "function", "function": TOOL},)


@pytest.mark.parametrize("tools", [None, "", [], "[]"])
def test_no_tools(tools: object) -> None:
    assert Pair().read({**ROW, "tools": tools}).tools == ()


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
    assert Pair().read({**ROW, "chat_template_kwargs": value}).template_kwargs == kwargs


def test_a_row_without_template_variables() -> None:
    assert Pair().read(ROW).template_kwargs == {}


@pytest.mark.parametrize("name", ["messages", "tools", "documents", "add_generation_prompt"])
def test_a_row_cannot_set_what_rendering_sets(name: str) -> None:
    with pytest.raises(RowError, match=f"'chat_template_kwargs' must not have '{name}': sftcore sets it itself"):
        Pair().read({**ROW, "chat_template_kwargs": {"enable_thinking": False, name: []}})


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"system": 3}, "'system' must be a string, not a number"),
        ({"system": "A", "inner": "B"}, "has a 'system' field and a different system message"),
        ({"tools": "[{"}, "'tools' is not valid JSON"),
        ({"tools": {"name": "f"}}, "'tools' must be a list of objects, not an object"),
        ({"tools": ["f"]}, "'tools' must be a list of objects"),
        ({"chat_template_kwargs": 3}, "'chat_template_kwargs' must be an object, not a number"),
        ({"chat_template_kwargs": []}, "'chat_template_kwargs' must be an object, not a list"),
        ({"chat_template_kwargs": "7"}, "'chat_template_kwargs' must be an object, not a number"),
        ({"chat_template_kwargs": "{"}, "'chat_template_kwargs' is not valid JSON"),
        ({"chat_template_kwargs": {1: 2}}, "'chat_template_kwargs' has a name that is not a string: 1"),
    ],
)
def test_a_malformed_row_is_a_row_error_with_the_reason(more: dict[str, Any], problem: str) -> None:
    with pytest.raises(RowError, match=problem.replace("[", r"\[")):
        Pair().read({**ROW, **more})


class Fixed(Format):
    def __init__(self, *messages: Message) -> None:
        self.messages = messages

    def parse(self, row: Mapping[str, Any]) -> tuple[Message, ...]:
        return self.messages


def test_a_conversation_needs_a_message() -> None:
    with pytest.raises(RowError, match="the conversation is empty"):
        Fixed().read({})


def test_a_conversation_needs_no_assistant_message() -> None:
    assert Fixed(Message("user", "Hi")).read({}).messages == (Message("user", "Hi"),)


def test_optional_methods_of_a_plugin_have_defaults() -> None:
    assert Template().stop() == ()
    assert Method().load_options(None) == {}
    assert Method().optimizer(None, None) is None
    tracker, backend = Tracker(), Backend()
    tracker.start({})
    tracker.log({}, 0)
    tracker.finish()
    assert backend.command(["run"]) is None
    assert backend.training_args() == {}
    backend.start({}, True)


@pytest.mark.parametrize(
    "call", [lambda: Format().parse({}), lambda: Template().jinja(), lambda: Method().prepare(None, None)]
)
def test_required_methods_of_a_plugin_raise_not_implemented(call: Any) -> None:
    with pytest.raises(NotImplementedError):
        call()
