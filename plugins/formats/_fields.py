"""Reading the fields of a row, with errors that name them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from sftcore import ROLES, Message, Role, RowError, Texts, json_type, role_of

WEIGHTS = ("weight", "loss_weight")
"""The two spellings of a message's weight."""


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
        if type(turn) is not dict and not isinstance(turn, Mapping):
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


def plain(row: Mapping[str, Any], key: str, role_key: str, text_key: str) -> Texts | None:
    """Return the messages at *key*, if all are sound and have these two keys alone, as most have; else None."""
    given = row.get(key)
    if type(given) is not list:
        return None
    roles: list[Role] = []
    contents: list[str] = []
    for turn in given:
        if type(turn) is not dict or len(turn) != 2:
            return None
        spelling, content = turn.get(role_key), turn.get(text_key)
        if type(content) is not str or type(spelling) is not str or spelling not in ROLES:
            return None
        roles.append(ROLES[spelling])
        contents.append(content)
    return Texts(roles, contents) if roles else None


class Training(TypedDict):
    """The fields of a :class:`Message` that say how it is trained."""

    train: bool | None
    weight: float


def training(turn: Mapping[str, Any], where: str) -> Training:
    """Return what ``train`` and ``weight`` (or ``loss_weight``) of *turn* say; null counts as absent.

    Raises:
        RowError: one has another type, the weight is negative or not finite, or the two weights differ.
    """
    train = turn.get("train")
    if train is not None and not isinstance(train, bool):
        raise RowError(f"{where}'train' must be true or false, not {json_type(train)}")
    weights = {key: _weight(turn[key], key, where) for key in WEIGHTS if turn.get(key) is not None}
    if len(set(weights.values())) > 1:
        told = " and ".join(f"'{key}' is {weight}" for key, weight in weights.items())
        raise RowError(f"{where}{told}; keep one of them")
    return {"train": train, "weight": next(iter(weights.values()), 1.0)}


def _weight(value: object, key: str, where: str) -> float:
    told = json_type(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if 0 <= value <= sys.float_info.max:  # false for NaN, and for an integer that no float can hold
            return float(value)
        told = repr(value)
    raise RowError(f"{where}'{key}' must be a finite number of at least 0, not {told}")


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
