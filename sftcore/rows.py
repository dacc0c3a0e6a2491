"""Helpers for formats: read the fields of a row, with errors that name the key and the message.

*where* is the beginning of each error: empty, or the place in the row, such as ``"message 2: "``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from sftcore.core.errors import RowError, json_type
from sftcore.core.types import ROLES, Message, PlainMessages, Role, parse_role

__all__ = [
    "ROLES",
    "TrainingFields",
    "json_type",
    "parse_role",
    "read_list",
    "read_plain_messages",
    "read_role",
    "read_text",
    "read_tool_call",
    "read_training_fields",
    "single_turn",
]

WEIGHT_KEYS = ("weight", "loss_weight")
"""The two spellings of a message's weight."""


def read_text(row: Mapping[str, Any], key: str, where: str = "") -> str:
    """Return the string at *key*.

    Raises:
        RowError: it is missing or not a string.
    """
    if key not in row:
        raise RowError(f"{where}the key '{key}' is missing (found: {', '.join(map(str, row)) or 'no keys'})")
    if not isinstance(row[key], str):
        raise RowError(f"{where}'{key}' must be a string, not {json_type(row[key])}")
    return str(row[key])


def read_list(row: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    """Return the messages at *key*, a list of objects.

    Raises:
        RowError: it is missing, empty, or something else.
    """
    if key not in row:
        raise RowError(f"the key '{key}' is missing (found: {', '.join(map(str, row)) or 'no keys'})")
    value = row[key]
    if not isinstance(value, list):
        raise RowError(f"'{key}' must be a list, not {json_type(value)}")
    if not value:
        raise RowError(f"'{key}' is empty: a conversation needs at least one message")
    for index, turn in enumerate(value, start=1):
        if type(turn) is not dict and not isinstance(turn, Mapping):
            raise RowError(f"message {index} of '{key}' must be an object, not {json_type(turn)}")
    return value


def read_role(turn: Mapping[str, Any], key: str, where: str = "") -> Role:
    """Return the role at *key*, in any spelling of ``ROLES``.

    Raises:
        RowError: it is missing or unknown.
    """
    return parse_role(read_text(turn, key, where), where)


def read_plain_messages(row: Mapping[str, Any], key: str, role_key: str, content_key: str) -> Sequence[Message] | None:
    """Return the messages at *key* if all are valid and have these two keys only, else None.

    This is the fast path for most data; a format checks the fields one by one where it returns None.
    """
    turns = row.get(key)
    if type(turns) is not list:
        return None
    roles: list[Role] = []
    contents: list[str] = []
    for turn in turns:
        if type(turn) is not dict or len(turn) != 2:
            return None
        spelling, content = turn.get(role_key), turn.get(content_key)
        if type(content) is not str or type(spelling) is not str or spelling not in ROLES:
            return None
        roles.append(ROLES[spelling])
        contents.append(content)
    return PlainMessages(roles, contents) if roles else None


class TrainingFields(TypedDict):
    """The fields of a :class:`sftcore.Message` that control its training."""

    train: bool | None
    weight: float


def read_training_fields(turn: Mapping[str, Any], where: str = "") -> TrainingFields:
    """Return ``train`` and ``weight`` (or ``loss_weight``) of *turn*; null is the same as a missing key.

    Raises:
        RowError: one has another type, the weight is negative or not finite, or the two weights differ.
    """
    train = turn.get("train")
    if train is not None and not isinstance(train, bool):
        raise RowError(f"{where}'train' must be true or false, not {json_type(train)}")
    weights = {key: _weight(turn[key], key, where) for key in WEIGHT_KEYS if turn.get(key) is not None}
    if len(set(weights.values())) > 1:
        values = " and ".join(f"'{key}' is {weight}" for key, weight in weights.items())
        raise RowError(f"{where}{values}; keep one of them")
    return {"train": train, "weight": next(iter(weights.values()), 1.0)}


def _weight(value: object, key: str, where: str) -> float:
    got = json_type(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if 0 <= value <= sys.float_info.max:  # false for NaN, and for an integer that no float can hold
            return float(value)
        got = repr(value)
    raise RowError(f"{where}'{key}' must be a finite number of at least 0, not {got}")


def single_turn(question: str, answer: str) -> list[Message]:
    """Return a user message and an assistant message.

    Raises:
        RowError: the question is empty.
    """
    if not question.strip():
        raise RowError("the conversation is empty: the user's message has no text")
    return [Message("user", question), Message("assistant", answer)]


def read_tool_call(call: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return the tool call *call*, an object with ``name`` and ``arguments``, as OpenAI's API has it.

    The arguments may be an object or the JSON text of one; they become an object.

    Raises:
        RowError: the name is missing, or the arguments are something else.
    """
    name, arguments = read_text(call, "name", where), call.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError as error:
            raise RowError(f"{where}the arguments of the call of '{name}' are not valid JSON: {error}") from None
    if not isinstance(arguments, Mapping):
        raise RowError(f"{where}the arguments of the call of '{name}' must be an object, not {json_type(arguments)}")
    return {"type": "function", "function": {"name": name, "arguments": dict(arguments)}}
