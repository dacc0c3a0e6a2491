from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from sftcore import Backend, Format, Message, Method, RowError, Template, Tracker
from sftcore.core.components import KINDS, Component


def test_every_kind_is_a_component() -> None:
    assert list(KINDS) == ["format", "template", "method", "tracker", "backend"]
    assert all(issubclass(kind, Component) for kind in KINDS.values())


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
