"""Reading the fields of a row, with errors that name them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sftcore import Message, Role, RowError, json_type, role_of


def text(row: Mapping[str, Any], key: str, where: str = "") -> str:
    """Return the string at *key*.

    Raises:
        RowError: it is missing, or no string.
    """
    if key not in row:
        raise RowError(f"{where}the key '{key}' is missing (found: {', '.join(map(str, row)) or 'no keys'})")
    if not isinstance(row[key], str):
        raise RowError(f"{where}'{key}' must be a string, not {json_type(row[key])}")
    return str(row[key])


def turns(row: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    """Return the list of objects at *key*.

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
        if not isinstance(turn, Mapping):
            raise RowError(f"message {index} of '{key}' must be an object, not {json_type(turn)}")
    return value


def role(turn: Mapping[str, Any], key: str, where: str) -> Role:
    """Return the role at *key*, whichever way it is spelled.

    Raises:
        RowError: it is missing or unknown.
    """
    try:
        return role_of(text(turn, key, where))
    except RowError as error:
        raise RowError(str(error) if str(error).startswith(where) else f"{where}{error}") from None


def single_turn(question: str, answer: str) -> list[Message]:
    """Return a user's message and the assistant's.

    Raises:
        RowError: there is no question.
    """
    if not question.strip():
        raise RowError("the conversation is empty: there is no text for the user's message")
    return [Message("user", question), Message("assistant", answer)]


def tool_call(name: str, arguments: object, where: str) -> dict[str, Any]:
    """Return one call as OpenAI spells it, the arguments as an object.

    Raises:
        RowError: the arguments are neither an object nor the JSON text of one.
    """
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError as error:
            raise RowError(f"{where}the arguments of the call of '{name}' are not valid JSON: {error}") from None
    if not isinstance(arguments, Mapping):
        raise RowError(f"{where}the arguments of the call of '{name}' must be an object, not {json_type(arguments)}")
    return {"type": "function", "function": {"name": name, "arguments": dict(arguments)}}
