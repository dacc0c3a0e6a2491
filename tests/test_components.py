from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from sftcore import KINDS, Backend, Component, Format, Message, Method, RowError, Template, Tracker


@dataclass
class Pair(Format):
    needs: ClassVar[frozenset[str]] = frozenset({"q", "a"})

    def parse(self, row: Mapping[str, Any]) -> list[Message]:
        turns = [Message("user", row["q"]), Message("assistant", row["a"])]
        return [Message("system", row["inner"]), *turns] if "inner" in row else turns


ROW = {"q": "Hi", "a": "Ho"}
TOOL = {"name": "f", "parameters": {}}


def test_every_kind_is_a_component() -> None:
    assert list(KINDS) == ["format", "template", "method", "tracker", "backend"]
    assert all(issubclass(kind, Component) for kind in KINDS.values())


@pytest.mark.parametrize(("row", "fits"), [(ROW, True), ({**ROW, "x": 1}, True), ({"q": ""}, False), ({}, False)])
def test_a_format_is_recognized_by_its_keys(row: dict[str, Any], fits: bool) -> None:
    assert Pair().matches(row) is fits


def test_a_format_without_keys_is_never_guessed() -> None:
    assert not Format().matches(ROW)


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
    ("more", "told"),
    [
        ({"system": 3}, "'system' must be a string, not a number"),
        ({"system": "A", "inner": "B"}, "has a 'system' field and a different system message"),
        ({"tools": "[{"}, "'tools' is not valid JSON"),
        ({"tools": {"name": "f"}}, "'tools' must be a list of objects, not an object"),
        ({"tools": ["f"]}, "'tools' must be a list of objects"),
    ],
)
def test_a_row_is_refused_with_the_reason(more: dict[str, Any], told: str) -> None:
    with pytest.raises(RowError, match=told.replace("[", r"\[")):
        Pair().read({**ROW, **more})


@pytest.mark.parametrize(
    ("messages", "told"), [([], "the conversation is empty"), ([Message("user", "Hi")], "no assistant message")]
)
def test_a_conversation_needs_something_to_train(messages: list[Message], told: str) -> None:
    class Fixed(Format):
        def parse(self, row: Mapping[str, Any]) -> list[Message]:
            return messages

    with pytest.raises(RowError, match=told):
        Fixed().read({})


def test_what_a_plugin_may_leave_out_has_a_default() -> None:
    assert Template().stop() == ()
    assert Method().load_options(None) == {}
    assert Method().optimizer(None, None) is None
    tracker, backend = Tracker(), Backend()
    tracker.start({})
    tracker.log({}, 0)
    tracker.finish()
    assert backend.launched({}) is False
    assert backend.command(["run"]) is None
    assert backend.training_args() == {}
    backend.start({}, True)


@pytest.mark.parametrize(
    "call", [lambda: Format().parse({}), lambda: Template().jinja(), lambda: Method().prepare(None, None)]
)
def test_what_a_plugin_must_write_says_so(call: Any) -> None:
    with pytest.raises(NotImplementedError):
        call()
