"""``{"traces": [{"type": "user", ...}, ...]}``: a session of a coding agent, as the agents write it.

A file with an event per line is one such row. Sessions of Claude Code, Codex and Pi are read, and those in the Hub's
simple format for session traces. Events that are not messages are skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sftcore import Format, Message, Role, RowError
from sftcore.rows import json_type, parse_role, read_list, read_tool_call

Event = Mapping[str, Any]

COMPACTED = ("compaction", "compacted", "compactionSummary")
"""Types of events after which the model no longer sees what was before."""

IGNORED_STOPS = ("error", "aborted")
"""Reasons of Pi for the end of an answer that later answers do not follow."""


@dataclass
class AgentTrace(Format):
    """A session of a coding agent: the events on the way to its last message."""

    reads: ClassVar[Mapping[str, Any]] = dict.fromkeys(("traces", "harness", "session_id", "file_name"))

    def parse(self, row: Mapping[str, Any]) -> list[Message]:
        turns: list[_Turn] = []
        names: dict[Any, str] = {}  # of tools, by the ids of their calls
        for number, event in _path(read_list({"traces": _decoded(row.get("traces"))}, "traces")):
            for turn in _turns(event, f"event {number}: "):
                names.update({call["id"]: call["function"]["name"] for call in turn.calls})
                turn.name = turn.name or names.get(turn.call_id)
                if turns and turns[-1].role == turn.role != "tool":
                    turns[-1].extend(turn)
                else:
                    turns.append(turn)
        return [turn.message() for turn in turns]


@dataclass
class _Turn:
    """A message, or a part of it: agents write an event for each block of an answer."""

    role: Role
    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    call_id: str | None = None
    name: str | None = None

    def extend(self, other: _Turn) -> None:
        self.texts += other.texts
        self.reasoning += other.reasoning
        self.calls += other.calls

    def message(self) -> Message:
        return Message(
            self.role,
            "\n\n".join(self.texts),
            reasoning_content="\n\n".join(self.reasoning) or None,
            tool_calls=tuple(self.calls),
            name=self.name,
            tool_call_id=self.call_id,
        )


def _decoded(events: Any) -> Any:
    """Return *events*; each may be JSON text, as in a table."""
    try:
        return [json.loads(event) if isinstance(event, str) else event for event in events or []]
    except ValueError as error:
        raise RowError(f"an event of 'traces' is not valid JSON: {error}") from None


def _path(events: Sequence[Event]) -> Iterator[tuple[int, Event]]:
    """Yield the events on the way from the first to the last, with their numbers.

    A session is a tree where its user went back to an earlier message. What a subagent says is not part of it.

    Raises:
        RowError: the session was compacted on the way, so that what follows did not see all that precedes.
    """
    for number, event in enumerate(events, start=1):
        if (
            event.get("type") in COMPACTED
            or event.get("isCompactSummary")
            or event.get("subtype") == "compact_boundary"
        ):
            raise RowError(f"event {number}: the session was compacted here; divide it into the parts before and after")
    own = [
        (number, event, _place(event)) for number, event in enumerate(events, start=1) if not event.get("isSidechain")
    ]
    parents = dict(place for _, _, place in own if place)
    last = next((place[0] for _, _, place in reversed(own) if place), None)
    kept: set[Any] = set()
    while last in parents and last not in kept:
        kept.add(last)
        last = parents[last]
    answers = {_answer(event) for _, event, place in own if place and place[0] in kept} - {None}
    for number, event, place in own:
        if place and place[1] in kept and (_has_results(event) or _answer(event) in answers):
            kept.add(place[0])  # parallel calls branch the tree too
        if not place or place[0] in kept:
            yield number, event


def _place(event: Event) -> tuple[Any, Any] | None:
    """Return the id of *event* and of the one that it follows; None where the agent writes no tree."""
    return next(((event[key], event[parent]) for key, parent in TREE if key in event and parent in event), None)


def _answer(event: Event) -> Any:
    """Return the id of the answer of which *event* is a part, if it is of one."""
    message = event.get("message")
    return message.get("id") if isinstance(message, Mapping) and event.get("type") == "assistant" else None


def _has_results(event: Event) -> bool:
    """Whether *event* has results of tools that Claude Code called."""
    message = event.get("message")
    content = message.get("content") if isinstance(message, Mapping) else None
    return isinstance(content, list) and any(block.get("type") == "tool_result" for block in content)


TREE = (("uuid", "parentUuid"), ("id", "parentId"))
"""Keys of an event's id and of the one that it follows, of Claude Code and Pi."""


def _turns(event: Event, where: str) -> Iterator[_Turn]:
    """Yield the messages in *event*."""
    kind, message, payload = event.get("type"), event.get("message"), event.get("payload")
    if kind == "session_meta" and isinstance(payload, Mapping):
        base = payload.get("base_instructions")
        text = base.get("text") if isinstance(base, Mapping) else payload.get("instructions")
        yield from [_Turn("system", [text])] if isinstance(text, str) and text else []
    elif kind == "response_item" and isinstance(payload, Mapping):
        yield from _codex(payload, where)
    elif kind in ("user", "assistant", "message") and isinstance(message, Mapping):
        if not (message.get("model") == "<synthetic>" or message.get("stopReason") in IGNORED_STOPS):
            yield from _blocks(message, where)
    elif kind in ("custom_message", "branch_summary"):
        yield _Turn("user", _texts(event.get("content", event.get("summary")), where))


def _codex(item: Event, where: str) -> Iterator[_Turn]:
    """Yield the messages in *item*, of OpenAI's Responses API."""
    kind, call_id = item.get("type"), item.get("call_id")
    if kind == "message":
        yield _Turn(parse_role(item.get("role"), where), _texts(item.get("content"), where))
    elif kind == "reasoning":
        yield _Turn("assistant", reasoning=_texts(item.get("content") or item.get("summary") or [], where))
    elif kind in ("function_call", "custom_tool_call", "local_shell_call"):
        arguments = item.get("arguments", item.get("action", {"input": item.get("input")}))
        call = {"name": item.get("name", "local_shell"), "arguments": arguments}
        yield _Turn("assistant", calls=[_call(call, call_id, where)])
    elif kind in ("function_call_output", "custom_tool_call_output", "local_shell_call_output"):
        yield _Turn("tool", _texts(item.get("output"), where), call_id=call_id)


def _blocks(message: Event, where: str) -> Iterator[_Turn]:
    """Yield the messages in *message*, of Anthropic's API, of Pi, or with OpenAI's tool calls."""
    given, content = message.get("role"), message.get("content", message.get("summary"))
    if given == "bashExecution":
        ran = f"Ran `{message.get('command')}`\n```\n{message.get('output')}\n```"
        yield from [] if message.get("excludeFromContext") else [_Turn("user", [ran])]
        return
    turn = _Turn("user" if given in ("custom", "branchSummary") else parse_role(given, where))
    turn.call_id, turn.name = message.get("toolCallId", message.get("tool_call_id")), message.get("toolName")
    turn.reasoning += [message[key] for key in ("reasoning_content", "reasoning", "thinking") if message.get(key)]
    turn.calls += [_call(call.get("function", call), call.get("id"), where) for call in message.get("tool_calls") or []]
    for block in content if isinstance(content, list) else [{"text": content or ""}]:
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind in ("thinking", "redacted_thinking"):
            turn.reasoning += [block["thinking"]] if block.get("thinking") else []
        elif kind in ("tool_use", "toolCall"):
            turn.calls.append(_call(block, block.get("id"), where))
        elif kind == "tool_result":
            yield _Turn("tool", _texts(block.get("content"), where), call_id=block.get("tool_use_id"))
        else:
            turn.texts += _texts([block], where)
    if turn.texts or turn.reasoning or turn.calls or turn.role == "tool":
        yield turn


def _call(call: Event, call_id: Any, where: str) -> dict[str, Any]:
    """Return *call*, whose arguments may be called input."""
    arguments = call.get("arguments", call.get("input"))
    return {**read_tool_call({"name": call.get("name"), "arguments": arguments or {}}, where), "id": call_id}


def _texts(content: Any, where: str) -> list[str]:
    """Return the texts of *content*: a string, an object with one, or a list of parts; none if it is empty."""
    if isinstance(content, Mapping) and "content" in content:
        content = content["content"]
    texts: list[str] = []
    for part in content if isinstance(content, list) else [{"text": content}]:
        text = part.get("text") if isinstance(part, Mapping) else None
        if text is None and content is not None:
            kind = part.get("type") if isinstance(part, Mapping) else json_type(part)
            raise RowError(f"{where}has a part that is not text ({kind})")
        texts += [str(text)] if text else []
    return texts
