"""The text that a template prints around any assistant turn, learned from a small conversation."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from sftcore.core.errors import RowError
from sftcore.core.types import Conversation, Message
from sftcore.labelling.layout import Layout
from sftcore.labelling.rendering.renderer import CALL, TOOL, Piece
from sftcore.labelling.templated_conversation import TemplatedConversation

OPEN_TAG = re.compile(r"[<\[][^<>\[\]\s]*$")
"""A marker that is not closed."""


class TemplateProfile(NamedTuple):
    """What a template prints around any assistant turn, learned from a small conversation.

    Attributes:
        stops: matches the strings that end a turn.
        declared_stops: matches those of them that the files of the model declare.
        prompt_header: the header of an assistant turn that the generation prompt has too, or any header if the
            prompt is blank; "" without one.
        last_turn: whether a plain last turn has no stop token, and its match; None if unknown.
        header: what the template prints of a turn before the assistant's own text.
        no_generation_prompt: the template prints *header*, but no generation prompt, so that no prompt is known.
        missing_prompt: the header before every answer, after a generation prompt that is blank; '' if they differ.
        written: the end of *header* that is not in the prompt, so that the model writes it.
        closing: the stop tokens of a plain turn and of one with tool calls that another message follows.
        separator: what the template prints after a turn only if another message follows.
    """

    stops: re.Pattern[str]
    declared_stops: re.Pattern[str]
    prompt_header: str = ""
    last_turn: tuple[bool, int] | None = None
    header: str = ""
    no_generation_prompt: bool = False
    missing_prompt: str = ""
    written: str = ""
    closing: tuple[str, str] = ("", "")
    separator: str = ""


_SYSTEM = Message("system", "Be brief.")
_TURNS = (
    Message("user", "What is the sum of one and two?"),
    Message("assistant", "Three of them."),
    Message("user", "And of two and two?"),
    Message("assistant", "Four of them."),
)


SAMPLES = (
    Conversation(_TURNS),
    Conversation((_SYSTEM, *_TURNS)),
    Conversation(_TURNS[:2]),
    Conversation((_SYSTEM, *_TURNS[:2])),
    Conversation(_TURNS, (TOOL,)),
    Conversation((_SYSTEM, *_TURNS), (TOOL,)),
)
"""Conversations that a template is tried with; some templates reject some of them."""


CALLING = Conversation(
    (
        _TURNS[0],
        Message("assistant", "", tool_calls=(CALL,)),
        Message("tool", "3", name="add", tool_call_id="callone12"),
        _TURNS[1],
    ),
    (TOOL,),
)
"""A conversation with a tool call."""


def any_of(texts: Collection[str]) -> re.Pattern[str]:
    """A pattern that matches any of *texts*, the longest first; nothing if there are none."""
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) or r"(?!)")


def learn_profile(
    samples: Iterable[TemplatedConversation], stops: Sequence[str], specials: Collection[str]
) -> tuple[TemplateProfile, list[str]]:
    """The profile of a template, and its stop strings.

    Args:
        samples: conversations under it, in the order in which they are tried.
        stops: the strings that end a turn, as the files of the model declare. If the template prints none of them
            after a turn, the text that it prints there is used.
        specials: the special tokens of the tokenizer, but for the one that begins a text.
    """
    for served in samples:
        last = len(served.messages) - 1
        try:
            layout = served.layout(last + 1)
            prompt, bare = (served.render(last, add) for add in (True, False))
        except RowError:
            continue
        tails = _tails(layout, bounded=True)
        declared = [any_of(stops).search(text) for text in _tails(layout, bounded=False)]
        found = list(stops) if all(declared) else [*stops, *_own_stops(tails, any_of(specials), any(declared))]
        pattern = any_of(found)
        tail = prompt[len(bare) :] if prompt.startswith(bare) else ""
        answers = [message for message, own in enumerate(layout.own) if own and _is_answer(layout, own)]
        headers = [_header(layout, message) for message in answers]
        prompt_header = OPEN_TAG.sub("", _shared_start([tail, *headers] if tail.strip() else headers or [""])).strip()
        missing = {_missing_prompt(served, layout, message) for message in answers}
        profile = TemplateProfile(
            stops=pattern,
            declared_stops=any_of(stops),
            prompt_header=prompt_header,
            header=headers[-1] if headers else "",
            no_generation_prompt=_has_no_generation_prompt(layout, prompt, bare, pattern),
            missing_prompt=missing.pop() if len(missing) == 1 else "",
            separator=tails[0].removeprefix(_shared_start(tails)) if tails else "",
        )
        return profile, found
    return TemplateProfile(any_of(stops), any_of(stops)), list(stops)


def _tails(layout: Layout, bounded: bool) -> list[str]:
    """Text after each assistant turn, up to the next message or (*bounded*) the end of its block."""
    tails: list[str] = []
    for message, own in enumerate(layout.own):
        if own and _is_answer(layout, own):
            last = own[-1].end
            block = layout.block_of(message, last)
            end = layout.next_other(message, last)
            tails.append(layout.text[last : min(end, block[1]) if bounded and block and block[1] >= last else end])
    return tails


def _is_answer(layout: Layout, own: Sequence[Piece]) -> bool:
    """Whether these pieces are the answer of a sample."""
    return any(layout.text[piece.start : piece.end].endswith("of them.") for piece in own)


def _header(layout: Layout, message: int) -> str:
    """Text of the turn *message* before the assistant's own text."""
    block = layout.block_of(message)
    return layout.text[block[0] : layout.own[message][0].start] if block else ""


def _has_no_generation_prompt(layout: Layout, prompt: str, bare: str, stops: re.Pattern[str]) -> bool:
    """Whether the template prints something before the last turn that no prompt ends with."""
    own = layout.own[-1]
    if prompt != bare or not own or not layout.text.startswith(prompt):
        return False
    if not layout.text[len(prompt) : own[0].start].strip():
        return False
    both = _shared_start([prompt[::-1], layout.text[::-1]])[::-1]  # a prompt that is printed at any end
    stop = stops.search(both)
    return not both[stop.end() if stop else len(both) :].strip()


def _missing_prompt(served: TemplatedConversation, layout: Layout, message: int) -> str:
    """What the template prints of *message* before its own text, after a blank generation prompt; '' otherwise."""
    prompt = served.prompt(message)
    if prompt is None or served.generation_prompt(message).strip() or not layout.text.startswith(prompt):
        return ""
    header = layout.text[len(prompt) : layout.own[message][0].start]
    return header if header.strip() else ""


def _own_stops(tails: Sequence[str], specials: re.Pattern[str], ended: bool) -> list[str]:
    """The text that ends turns with these *tails*: a special token if there is one.

    If one of them is *ended* by a declared stop string, only a text that all of them have ends the others.
    """
    if not tails:
        return []
    shared = _shared_start(tails)
    if found := specials.findall(shared):
        return [found[-1]]
    if ended:
        return [text] if (text := shared.strip()) and text == tails[0].strip() else []
    if found := specials.findall(tails[-1]):
        return [found[-1]]
    text = tails[-1].strip()
    return [text] if text else []


def _shared_start(texts: Sequence[str]) -> str:
    """The longest common prefix of *texts*."""
    shortest, longest = min(texts), max(texts)
    for at, (one, other) in enumerate(zip(shortest, longest, strict=False)):
        if one != other:
            return shortest[:at]
    return shortest[: len(longest)]
