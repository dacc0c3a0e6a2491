"""Helpers for formats: read the fields of a row, with errors that name the key and the message.

*where* is the beginning of each error: empty, or the place in the row, such as ``"message 2: "``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sftcore.core.errors import RowError, json_type, nearest
from sftcore.core.json_text import STRICT, read_json
from sftcore.core.training_fields import TRAINING_KEYS, TrainingFields, read_training_fields
from sftcore.core.types import Message, PlainMessages, Role

__all__ = [
    "CALLS",
    "MESSAGE_KEYS",
    "ROLES",
    "SINGLE_TURN_KEYS",
    "TOOL_CALL_KEYS",
    "TrainingFields",
    "is_call",
    "json_type",
    "parse_role",
    "read_json",
    "read_list",
    "read_plain_messages",
    "read_role",
    "read_text",
    "read_tool_call",
    "read_training_fields",
    "single_turn",
]

TOOL_CALL_KEYS: Mapping[str, Any] = {
    "id": None,
    "type": None,
    "index": None,
    "name": None,
    "arguments": None,
    "function": {"name": None, "arguments": None},
}
"""Keys that :func:`read_tool_call` and the formats that call it read, as in :attr:`sftcore.Format.reads`."""

MESSAGE_KEYS: Mapping[str, Any] = dict.fromkeys(TRAINING_KEYS)
"""Keys of every message: those of :func:`read_training_fields`."""

SINGLE_TURN_KEYS: Mapping[str, Any] = {"history": None, "reasoning_content": None}
"""Keys that :func:`single_turn` reads."""

_SPELLINGS: Mapping[Role, str] = {
    "system": "system developer",
    "user": "user human prompter",
    "assistant": "assistant gpt model bot ai chatbot chatgpt",
    "tool": "tool function observation ipython tool_response tool_result tool_output function_response function_result",
}
ROLES: Mapping[str, Role] = {word: role for role, words in _SPELLINGS.items() for word in words.split()}
"""Every spelling of a role that data may use, and the role that it means; see :func:`parse_role` for variants."""

CALLS = ("tool_call", "tool_calls", "function_call", "function_calls", "tool_use")
"""Every spelling of a role by which the assistant calls tools; the content is the call."""


def _plain(spelling: object) -> str:
    return re.sub(r"[\W_]", "", spelling).lower() if isinstance(spelling, str) else ""


_BY_PLAIN = {_plain(spelling): role for spelling, role in ROLES.items()}


def is_call(spelling: object) -> bool:
    """Return True if *spelling* is one of ``CALLS``, in any case, with or without underscores."""
    return _plain(spelling) in map(_plain, CALLS)


def parse_role(spelling: object, where: str = "") -> Role:
    """Return the role that *spelling* means, in any case, with or without underscores.

    Raises:
        RowError: no role has this spelling; the message begins with *where* and names the nearest one. That is never
            a tool's, because a call of the assistant must not be taken for a result, which is not trained.
    """
    if role := _BY_PLAIN.get(_plain(spelling)):
        return role
    if isinstance(spelling, str) and (hint := nearest(spelling, _SAFE)):
        raise RowError(f"{where}unknown role {spelling!r}{hint}")
    known = f"(known: {', '.join([*ROLES, CALLS[0]])}; 'roles' of a source adds others)"
    raise RowError(f"{where}unknown role {spelling!r} {known}")


_SAFE = [word for word, role in ROLES.items() if role != "tool"]


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
    """Return the messages at *key*, a list of objects or the JSON text of one.

    Raises:
        RowError: it is missing, empty, or something else.
    """
    if key not in row:
        raise RowError(f"the key '{key}' is missing (found: {', '.join(map(str, row)) or 'no keys'})")
    value = _decoded_list(row[key], key)
    if not isinstance(value, list):
        raise RowError(f"'{key}' must be a list, not {json_type(value)}")
    if not value:
        raise RowError(f"'{key}' is empty: a conversation needs at least one message")
    for index, turn in enumerate(value, start=1):
        if type(turn) is not dict and not isinstance(turn, Mapping):
            raise RowError(f"message {index} of '{key}' must be an object, not {json_type(turn)}")
    return value


def _decoded_list(value: Any, key: str) -> Any:
    """Return *value*, decoded where it is the text of a list, as where a table has conversations."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return STRICT.decode(value)
    except ValueError as error:
        hint = "; is it printed by Python? write it with json.dumps" if re.match(r"\s*\[\{'", value) else ""
        raise RowError(f"'{key}' is not valid JSON: {error}{hint}") from None


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
    if type(turns) is str:
        turns = _decoded_list(turns, key)
    if type(turns) is not list:
        return None
    roles: list[Role] = []
    contents: list[str] = []
    for turn in turns:
        if type(turn) is not dict or len(turn) != 2:
            return None
        spelling, content = turn.get(role_key), turn.get(content_key)
        if type(content) is not str or type(spelling) is not str:
            return None
        if (role := ROLES.get(spelling) or ROLES.get(spelling.lower())) is None:
            return None
        roles.append(role)
        contents.append(content)
    return PlainMessages(roles, contents) if roles else None


def single_turn(question: str, answer: str, row: Mapping[str, Any] | None = None) -> list[Message]:
    """Return a user message and an assistant message, after those of the ``history`` of *row*, with its reasoning.

    The history is a list of pairs of question and answer; ``reasoning_content`` is that of the answer.

    Raises:
        RowError: the question is empty, or one of the two keys has an invalid value.
    """
    row = row or {}
    if not question.strip():
        raise RowError("the conversation is empty: the user's message has no text")
    reasoning = read_text(row, "reasoning_content") if row.get("reasoning_content") is not None else None
    messages = [Message("user", question), Message("assistant", answer, reasoning_content=reasoning or None)]
    return [*_history(row), *messages] if row.get("history") else messages


def _history(row: Mapping[str, Any]) -> list[Message]:
    messages: list[Message] = []
    pairs = _decoded_list(row["history"], "history")
    for number, pair in enumerate(pairs if isinstance(pairs, list) else [pairs], start=1):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise RowError(f"pair {number} of 'history' must be a list of two strings, not {json_type(pair)}")
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    return messages


def read_tool_call(call: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return the tool call *call*, an object with ``name`` and ``arguments``, as OpenAI's API has it.

    The arguments may be an object or the JSON text of one; they become an object.

    Raises:
        RowError: the name is missing, or the arguments are something else.
    """
    name, arguments = read_text(call, "name", where), call.get("arguments", {})
    if "arguments" not in call and (others := [str(key) for key in call if key not in TOOL_CALL_KEYS and call[key]]):
        raise RowError(f"{where}the call of '{name}' has no 'arguments' (found: {', '.join(others)})")
    if isinstance(arguments, str):
        try:
            arguments = STRICT.decode(arguments) if arguments.strip() else {}
        except ValueError as error:
            raise RowError(f"{where}the arguments of the call of '{name}' are not valid JSON: {error}") from None
    if not isinstance(arguments, Mapping):
        raise RowError(f"{where}the arguments of the call of '{name}' must be an object, not {json_type(arguments)}")
    return {"type": "function", "function": {"name": name, "arguments": dict(arguments)}}
