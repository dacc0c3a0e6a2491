"""``{"messages": [{"role": "user", "content": "..."}, ...]}``: several turns, as in OpenAI's API and on the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sftcore import Format, Message, RowError
from sftcore.rows import (
    MESSAGE_KEYS,
    TOOL_CALL_KEYS,
    json_type,
    read_list,
    read_plain_messages,
    read_role,
    read_text,
    read_tool_call,
    read_training_fields,
)

_KEYS: Mapping[str, Any] = {
    **MESSAGE_KEYS,
    **dict.fromkeys(("role", "name", "tool_call_id", "channel", "reasoning_content", "reasoning", "thinking")),
    "content": dict.fromkeys(("type", "text", "value")),
    "tool_calls": TOOL_CALL_KEYS,
    "function_call": TOOL_CALL_KEYS,
}


@dataclass
class Messages(Format):
    """Several turns: a list of objects with role and content."""

    reads: ClassVar[Mapping[str, Any]] = {"messages": _KEYS}

    def parse(self, row: Mapping[str, Any]) -> Sequence[Message]:
        return read_plain_messages(row, "messages", "role", "content") or read_messages(read_list(row, "messages"))


def read_messages(turns: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return the messages of *turns*; those in the channel ``analysis`` are the reasoning of the turn that follows."""
    messages: list[Message] = []
    analysis: list[str] = []
    for index, turn in enumerate(turns, start=1):
        message, channel = _message(turn, f"message {index}: "), turn.get("channel")
        if channel == "analysis" and index < len(turns):
            analysis.append(message.content)
            continue
        if analysis and message.role != "assistant":
            raise RowError(f"message {index}: follows the channel 'analysis', and is not of the assistant")
        if channel not in (None, "final") and not (channel == "commentary" and message.tool_calls):
            raise RowError(f"message {index}: the channel {channel!r} cannot be trained here")
        reasoning = "\n".join([*analysis, *filter(None, [message.reasoning_content])])
        messages.append(replace(message, reasoning_content=reasoning) if analysis else message)
        analysis = []
    return messages


def _message(turn: Mapping[str, Any], where: str) -> Message:
    calls = turn.get("tool_calls") or []
    if not isinstance(calls, list):
        raise RowError(f"{where}'tool_calls' must be a list, not {json_type(calls)}")
    if turn.get("function_call"):
        if calls:
            raise RowError(f"{where}has 'tool_calls' and 'function_call'; keep one of them")
        calls = [turn["function_call"]]
    if calls and turn.get("content") is None:  # as OpenAI's API returns a message that only calls tools
        turn = {**turn, "content": ""}
    content, reasoning, calls_in_content = _content(turn, where)
    return Message(
        role=read_role(turn, "role", where),
        content=content,
        reasoning_content=reasoning,
        tool_calls=tuple(_call(call, where) for call in [*calls, *calls_in_content]),
        name=_optional(turn, "name", where),
        tool_call_id=_optional(turn, "tool_call_id", where),
        **read_training_fields(turn, where),
    )


def _content(turn: Mapping[str, Any], where: str) -> tuple[str, str | None, list[object]]:
    """Return content, reasoning and tool calls; the content may be a string or a list of parts."""
    reasoning = _reasoning(turn, where)
    if not isinstance(turn.get("content"), list):
        return read_text(turn, "content", where), reasoning, []
    parts: dict[str, list[str]] = {"text": [], "reasoning": [], "tool_call": []}
    for part in turn["content"]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        value = (part.get("text", part.get("value"))) if isinstance(part, Mapping) else None
        if not (isinstance(kind, str) and kind in parts and isinstance(value, str)):
            raise RowError(f"{where}'content' has a part that is not text ({kind or json_type(part)})")
        parts[kind].append(value)
    try:
        calls = [json.loads(value) for value in parts["tool_call"]]
    except ValueError as error:
        raise RowError(f"{where}a part of 'content' is a tool call that is not valid JSON: {error}") from None
    return "".join(parts["text"]), "".join([reasoning or "", *parts["reasoning"]]) or None, calls


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
    return read_tool_call(function, where) | ({"id": call["id"]} if "id" in call else {})


def _optional(turn: Mapping[str, Any], key: str, where: str) -> str | None:
    return None if turn.get(key) is None else read_text(turn, key, where)
