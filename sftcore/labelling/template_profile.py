"""What a template does around any assistant turn, learned from a small conversation."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sftcore.core.errors import RowError
from sftcore.core.types import Message
from sftcore.labelling.layout import Layout
from sftcore.labelling.rendering.renderer import ChatTemplate, Piece
from sftcore.labelling.turns import OPEN_TAG, Habits

_SYSTEM = Message("system", "Be brief.")
_TURNS = (
    Message("user", "What is the sum of one and two?"),
    Message("assistant", "Three of them."),
    Message("user", "And of two and two?"),
    Message("assistant", "Four of them."),
)


def _call(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


_TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "number", "description": "A number."}}},
    },
}

SAMPLES: tuple[tuple[tuple[Message, ...], list[Mapping[str, Any]] | None], ...] = (
    (_TURNS, None),
    ((_SYSTEM, *_TURNS), None),
    (_TURNS[:2], None),
    ((_SYSTEM, *_TURNS[:2]), None),
    (_TURNS, [_TOOL]),
    ((_SYSTEM, *_TURNS), [_TOOL]),
)
"""Conversations and tools that a template may be tried with; some refuse the one or the other."""


CALLING: tuple[tuple[Message, ...], list[Mapping[str, Any]]] = (
    (
        _TURNS[0],
        Message("assistant", "", tool_calls=({"id": "callone12", **_call("add", {"a": 1})},)),
        Message("tool", "3", name="add", tool_call_id="callone12"),
        _TURNS[1],
    ),
    [_TOOL],
)
"""A conversation with a tool call."""


def any_of(texts: Collection[str]) -> re.Pattern[str]:
    """Return a pattern that finds any of *texts*, the longest that fits; none at all if there are none."""
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) or r"(?!)")


def learn(
    template: ChatTemplate,
    samples: Iterable[tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]] | None]],
    variables: Mapping[str, Any],
    stops: Sequence[str],
    specials: Collection[str],
) -> tuple[Habits, list[str]]:
    """Return the habits of *template*, and the stop strings among them.

    Args:
        samples: conversations and tools, in the order in which they are tried.
        stops: the strings that end a turn, as the model's files say. If the template prints none of them
            after a turn, what it prints there itself is taken.
        specials: the special tokens of the tokenizer, but for the one that begins a text.
    """
    for messages, tools in samples:
        try:
            layout = Layout(template.trace(messages, tools, **variables), messages)
            prompt, bare = (template.render(messages[:-1], tools, add, **variables) for add in (True, False))
        except RowError:
            continue
        found = list(stops)
        if not any(any_of(stops).search(tail) for tail in _tails(layout, bounded=False)):
            found += _own_stops(_tails(layout, bounded=True), any_of(specials))
        pattern = any_of(found)
        header = prompt[len(bare) :] if prompt.startswith(bare) else ""
        leads = [_lead(layout, message) for message, own in enumerate(layout.own) if own and _is_answer(layout, own)]
        role = OPEN_TAG.sub("", _shared_start([header, *leads])).strip()
        headless = _is_headless(layout, prompt, bare, pattern)
        lead = leads[-1] if leads else ""
        return Habits(pattern, any_of(stops), role, lead=lead, headless=headless), found
    return Habits(any_of(stops), any_of(stops)), list(stops)


def _tails(layout: Layout, bounded: bool) -> list[str]:
    """Return what the template prints after each assistant turn, up to the next message or (*bounded*) its own end."""
    tails: list[str] = []
    for message, own in enumerate(layout.own):
        if own and _is_answer(layout, own):
            last = own[-1].end
            block = layout.block_of(message, last)
            end = layout.next_other(message, last)
            tails.append(layout.text[last : min(end, block[1]) if bounded and block and block[1] >= last else end])
    return tails


def _is_answer(layout: Layout, own: Sequence[Piece]) -> bool:
    """Tell whether these pieces are what the assistant says in a sample."""
    return any(layout.text[piece.start : piece.end].endswith("of them.") for piece in own)


def _lead(layout: Layout, message: int) -> str:
    """Return what the template prints of the turn *message* before the assistant's own text."""
    block = layout.block_of(message)
    return layout.text[block[0] : layout.own[message][0].start] if block else ""


def _is_headless(layout: Layout, prompt: str, bare: str, stops: re.Pattern[str]) -> bool:
    """Tell whether the template prints something before the last turn that no prompt ends with."""
    own = layout.own[-1]
    if prompt != bare or not own or not layout.text.startswith(prompt):
        return False
    if not layout.text[len(prompt) : own[0].start].strip():
        return False
    both = _shared_start([prompt[::-1], layout.text[::-1]])[::-1]  # a prompt that is printed at any end
    stop = stops.search(both)
    return not both[stop.end() if stop else len(both) :].strip()


def _own_stops(tails: Sequence[str], specials: re.Pattern[str]) -> list[str]:
    """Return what ends the turns with these *tails*: by a special token if one is there."""
    if not tails:
        return []
    shared = _shared_start(tails)
    if found := specials.findall(shared):
        return [found[-1]]
    if found := specials.findall(tails[-1]):
        return [found[-1]]
    text = tails[-1].strip()
    return [text] if text else []


def _shared_start(texts: Sequence[str]) -> str:
    """Return the characters that all *texts* begin with."""
    shortest, longest = min(texts), max(texts)
    for at, (one, other) in enumerate(zip(shortest, longest, strict=False)):
        if one != other:
            return shortest[:at]
    return shortest[: len(longest)]
