"""``{"conversations": [{"from": "human", "value": "..."}, ...]}``: several turns, as ShareGPT exports write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sftcore import Format, Message, RowError

from ._fields import plain, role, text, tool_call, training, turns

CALL_ROLE = "function_call"
"""The ``from`` of a turn in which the assistant calls a tool; its value is the call as JSON."""


@dataclass
class ShareGPT(Format):
    """Several turns: a list of objects with from and value."""

    needs: ClassVar[frozenset[str]] = frozenset({"conversations"})

    def parse(self, row: Mapping[str, Any]) -> Sequence[Message]:
        return plain(row, "conversations", "from", "value") or [
            _message(turn, f"message {index}: ") for index, turn in enumerate(turns(row, "conversations"), start=1)
        ]


def _message(turn: Mapping[str, Any], where: str) -> Message:
    value = text(turn, "value", where)
    if turn.get("from") == CALL_ROLE:
        return Message("assistant", "", tool_calls=_calls(value, where), **training(turn, where))
    return Message(role(turn, "from", where), value, **training(turn, where))


def _calls(value: str, where: str) -> tuple[dict[str, Any], ...]:
    """Return the calls in the JSON text of one, or of a list of them."""
    try:
        found = json.loads(value)
    except ValueError as error:
        raise RowError(f"{where}the value of a {CALL_ROLE} is not valid JSON: {error}") from None
    calls = found if isinstance(found, list) else [found]
    if not calls or not all(isinstance(call, Mapping) for call in calls):
        raise RowError(
            f"{where}the value of a {CALL_ROLE} must be an object with 'name' and 'arguments', or a list of them"
        )
    return tuple(tool_call(text(call, "name", where), call.get("arguments", {}), where) for call in calls)
