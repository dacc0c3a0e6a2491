"""``{"conversations": [{"from": "human", "value": "..."}, ...]}``: several turns, as in ShareGPT exports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sftcore import Format, Message, RowError
from sftcore.rows import (
    MESSAGE_KEYS,
    read_list,
    read_plain_messages,
    read_role,
    read_text,
    read_tool_call,
    read_training_fields,
)

CALL_ROLE = "function_call"
"""The ``from`` of a turn in which the assistant calls tools; its value is the call, or a list of calls, as JSON."""


@dataclass
class ShareGPT(Format):
    """Several turns: a list of objects with from and value."""

    reads: ClassVar[Mapping[str, Any]] = {"conversations": {**MESSAGE_KEYS, "from": None, "value": None}}

    def parse(self, row: Mapping[str, Any]) -> Sequence[Message]:
        return read_plain_messages(row, "conversations", "from", "value") or [
            _message(turn, f"message {index}: ") for index, turn in enumerate(read_list(row, "conversations"), start=1)
        ]


def _message(turn: Mapping[str, Any], where: str) -> Message:
    value = read_text(turn, "value", where)
    if turn.get("from") == CALL_ROLE:
        return Message("assistant", "", tool_calls=_calls(value, where), **read_training_fields(turn, where))
    return Message(read_role(turn, "from", where), value, **read_training_fields(turn, where))


def _calls(text: str, where: str) -> tuple[dict[str, Any], ...]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RowError(f"{where}the value of a {CALL_ROLE} is not valid JSON: {error}") from None
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(call, Mapping) for call in calls):
        raise RowError(
            f"{where}the value of a {CALL_ROLE} must be an object with 'name' and 'arguments', or a list of them"
        )
    return tuple(read_tool_call(call, where) for call in calls)
