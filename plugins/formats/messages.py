"""``{"messages": [{"role": "user", "content": "..."}, ...]}``: several turns, as OpenAI and Hugging Face write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sftcore import Format, Message, RowError, json_type

from ._fields import plain, role, text, tool_call, training, turns


@dataclass
class Messages(Format):
    """Several turns: a list of objects with role and content."""

    needs: ClassVar[frozenset[str]] = frozenset({"messages"})

    def parse(self, row: Mapping[str, Any]) -> Sequence[Message]:
        return plain(row, "messages", "role", "content") or [
            _message(turn, f"message {index}: ") for index, turn in enumerate(turns(row, "messages"), start=1)
        ]


def _message(turn: Mapping[str, Any], where: str) -> Message:
    calls = turn.get("tool_calls") or []
    if not isinstance(calls, list):
        raise RowError(f"{where}'tool_calls' must be a list, not {json_type(calls)}")
    if calls and turn.get("content") is None:  # what OpenAI's API returns for a bare call
        turn = {**turn, "content": ""}
    content, reasoning, further_calls = _content(turn, where)
    return Message(
        role=role(turn, "role", where),
        content=content,
        reasoning_content=reasoning,
        tool_calls=tuple(_call(call, where) for call in [*calls, *further_calls]),
        name=_optional(turn, "name", where),
        tool_call_id=_optional(turn, "tool_call_id", where),
        **training(turn, where),
    )


def _content(turn: Mapping[str, Any], where: str) -> tuple[str, str | None, list[object]]:
    """Return content, reasoning and tool calls; content may be a string, or a list of parts."""
    reasoning = _reasoning(turn, where)
    if not isinstance(turn.get("content"), list):
        return text(turn, "content", where), reasoning, []
    found: dict[str, list[str]] = {"text": [], "reasoning": [], "tool_call": []}
    for part in turn["content"]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        value = (part.get("text", part.get("value"))) if isinstance(part, Mapping) else None
        if kind not in found or not isinstance(value, str):
            raise RowError(f"{where}'content' has a part that is no text ({kind or json_type(part)})")
        found[kind].append(value)
    try:
        calls = [json.loads(value) for value in found["tool_call"]]
    except ValueError as error:
        raise RowError(f"{where}a part of 'content' is a tool call that is not valid JSON: {error}") from None
    return "".join(found["text"]), "".join([reasoning or "", *found["reasoning"]]) or None, calls


def _reasoning(turn: Mapping[str, Any], where: str) -> str | None:
    """Return the reasoning, under any of the names that transformers takes for it."""
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
    made = tool_call(text(function, "name", where), function.get("arguments", {}), where)
    assert isinstance(call, Mapping)
    return {**made, "id": call["id"]} if "id" in call else made


def _optional(turn: Mapping[str, Any], key: str, where: str) -> str | None:
    return None if turn.get(key) is None else text(turn, key, where)
