"""``{"messages": [{"role": "user", "content": "..."}, ...]}``: several turns, as in OpenAI's API and on the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sftcore import Format, Message, RowError
from sftcore.rows import (
    MESSAGE_KEYS,
    TOOL_CALL_KEYS,
    is_call,
    json_type,
    read_json,
    read_list,
    read_plain_messages,
    read_role,
    read_text,
    read_tool_call,
    read_training_fields,
)

_CONTENT_KEYS = dict.fromkeys(("type", "text", "value"))

KEYS: Mapping[str, Any] = {
    **MESSAGE_KEYS,
    **dict.fromkeys(("role", "from", "name", "tool_call_id", "channel", "reasoning_content", "reasoning", "thinking")),
    **{"content": _CONTENT_KEYS, "value": _CONTENT_KEYS, "tool_calls": TOOL_CALL_KEYS, "function_call": TOOL_CALL_KEYS},
}
"""The keys that are read from a message."""


@dataclass
class Messages(Format):
    """Several turns: a list of objects with role and content."""

    reads: ClassVar[Mapping[str, Any]] = {"messages": KEYS}

    key: ClassVar[str] = "messages"
    turn_keys: ClassVar[Sequence[tuple[str, str]]] = (("role", "content"), ("from", "value"))
    """Keys of the role and of the content of a turn; a turn without a role is taken to have the first two."""

    def parse(self, row: Mapping[str, Any]) -> Sequence[Message]:
        for keys in self.turn_keys:
            if plain := read_plain_messages(row, self.key, *keys):
                return plain
        return self.turns(read_list(row, self.key))

    def turns(self, turns: Sequence[Mapping[str, Any]], place: str = "") -> list[Message]:
        """Return the messages of *turns*; errors name each by its number and *place*."""
        messages: list[Message] = []
        analysis: list[Message] = []  # of a turn whose reasoning stands in messages of their own, as in harmony
        for index, turn in enumerate(turns, start=1):
            where, channel = f"message {index}{place}: ", turn.get("channel")
            message = _message(turn, self._keys(turn), where)
            if channel == "analysis" and index < len(turns):
                analysis.append(message)
                continue
            if analysis and message.role != "assistant":
                raise RowError(f"{where}follows the channel 'analysis', and is not of the assistant")
            if channel not in (None, "final") and not (channel == "commentary" and message.tool_calls):
                raise RowError(f"{where}the channel {channel!r} cannot be trained here")
            if analysis:
                message, analysis = _with_analysis(message, analysis, where), []
            messages.append(message)
        return messages

    def _keys(self, turn: Mapping[str, Any]) -> tuple[str, str]:
        return next((keys for keys in self.turn_keys if keys[0] in turn), self.turn_keys[0])


def _with_analysis(message: Message, analysis: Sequence[Message], where: str) -> Message:
    """Return *message* with the texts of *analysis* as its reasoning."""
    for part in analysis:
        trained_alike = part.train in (None, message.train) and part.weight in (1.0, message.weight)
        if part.role != "assistant" or part.tool_calls or part.reasoning_content or not trained_alike:
            raise RowError(f"{where}the channel 'analysis' before it must be an assistant's text, and trained as it is")
    texts = [*(part.content for part in analysis), message.reasoning_content or ""]
    return replace(message, reasoning_content="\n".join(texts).strip())


def _message(turn: Mapping[str, Any], keys: tuple[str, str], where: str) -> Message:
    role_key, content_key = keys
    training = read_training_fields(turn, where)
    if turn.get("content") and turn.get("value") and turn["content"] != turn["value"]:
        raise RowError(f"{where}has 'content' and another 'value'; keep one of them")
    if is_call(turn.get(role_key)):
        if turn.get("tool_calls") or turn.get("function_call"):
            raise RowError(f"{where}is a call by its role, and has further ones; keep one of them")
        own = _decoded_calls(turn, keys, where)
        return Message("assistant", "", reasoning_content=_reasoning(turn, where), tool_calls=own, **training)
    calls = _decode(turn.get("tool_calls") or [], "'tool_calls'", where)
    if not isinstance(calls, list):
        raise RowError(f"{where}'tool_calls' must be a list, not {json_type(calls)}")
    if turn.get("function_call"):
        if calls:
            raise RowError(f"{where}has 'tool_calls' and 'function_call'; keep one of them")
        calls = [turn["function_call"]]
    if calls and turn.get(content_key) is None:  # as OpenAI's API returns a message that only calls tools
        turn = {**turn, content_key: ""}
    _check_keys(turn, keys, where)
    content, reasoning, calls_in_content = _content(turn, content_key, where)
    return Message(
        role=read_role(turn, role_key, where),
        content=content,
        reasoning_content=reasoning,
        tool_calls=tuple(_call(call, where) for call in [*calls, *calls_in_content]),
        name=_optional(turn, "name", where),
        tool_call_id=_optional(turn, "tool_call_id", where),
        **training,
    )


def _check_keys(turn: Mapping[str, Any], keys: tuple[str, str], where: str) -> None:
    """Raise RowError if *turn* lacks one of *keys* and has another one that may be it."""
    others = [key for key, value in turn.items() if key not in (*keys, *FIELDS) and isinstance(value, str)]
    missing = [key for key in keys if key not in turn]
    if missing and len(others) >= len(missing):
        names = ", ".join(f"{key}: {meant}" for key, meant in zip(others, missing, strict=False))
        problem = f"the key '{missing[0]}' is missing (found: {', '.join(map(str, turn))})"
        raise RowError(f"{where}{problem}; is another name used? message_keys: {{{names}}}")


FIELDS = ("reasoning_content", "reasoning", "thinking", "tool_calls", "name", "tool_call_id", "id")
"""Keys of a turn that are neither its role nor its content."""


def _content(turn: Mapping[str, Any], key: str, where: str) -> tuple[str, str | None, list[object]]:
    """Return content, reasoning and tool calls; the content may be a string or a list of parts."""
    reasoning = _reasoning(turn, where)
    if not isinstance(turn.get(key), list):
        return read_text(turn, key, where), reasoning, []
    parts: dict[str, list[str]] = {"text": [], "reasoning": [], "tool_call": []}
    for part in turn[key]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        value = (part.get("text", part.get("value"))) if isinstance(part, Mapping) else None
        if not (isinstance(kind, str) and kind in parts and isinstance(value, str)):
            raise RowError(f"{where}'{key}' has a part that is not text ({kind or json_type(part)})")
        parts[kind].append(value)
    calls = [_decode(value, f"a part of '{key}' is a tool call that", where) for value in parts["tool_call"]]
    return "".join(parts["text"]), "".join([reasoning or "", *parts["reasoning"]]) or None, calls


def _decoded_calls(turn: Mapping[str, Any], keys: tuple[str, str], where: str) -> tuple[dict[str, Any], ...]:
    """Return the calls in *turn*: an object with name and arguments, or a list of them, or the JSON text of either."""
    what = f"'{keys[1]}' of a {turn[keys[0]]}"
    value = _decode(turn.get(keys[1]), what, where)
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(call, Mapping) for call in calls):
        raise RowError(f"{where}{what} must be an object with 'name' and 'arguments', or a list of them")
    return tuple(_call(call, where) for call in calls)


def _decode(value: object, what: str, where: str) -> Any:
    """Return *value*, decoded where it is JSON text; *what* begins the error."""
    return read_json(value, f"{where}{what}") if isinstance(value, str) else value


def _reasoning(turn: Mapping[str, Any], where: str) -> str | None:
    """Return the reasoning, under any of the names that transformers accepts."""
    given = {
        key: text for key in ("reasoning_content", "reasoning", "thinking") if (text := _optional(turn, key, where))
    }
    if len(set(given.values())) > 1:
        raise RowError(f"{where}{' and '.join(map(repr, given))} are different; keep one of them")
    return next(iter(given.values()), None)


def _call(call: object, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise RowError(f"{where}a tool call must be an object, not {json_type(call)}")
    assert isinstance(call, Mapping)
    if function is not call and call.get("arguments"):
        raise RowError(f"{where}the arguments of a tool call stand beside its 'function'; put them into it")
    return read_tool_call(function, where) | ({"id": call["id"]} if "id" in call else {})


def _optional(turn: Mapping[str, Any], key: str, where: str) -> str | None:
    return None if turn.get(key) is None else read_text(turn, key, where)
