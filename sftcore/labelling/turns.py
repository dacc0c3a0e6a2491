"""What the model has to write in an assistant turn: from the end of its prompt through the token that ends it.

A turn begins where the prompt ends that the model is served with. That prompt is what the template itself
makes of the messages before, with ``add_generation_prompt``; where a rendering begins with it, there is
nothing to decide. The turn ends with the first stop token after the last of its own text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from sftcore.core.errors import RowError
from sftcore.labelling.layout import Layout
from sftcore.labelling.rendering.provenance import CALL, CALL_NAME, CONTENT, REASONING
from sftcore.labelling.rendering.renderer import ChatTemplate, Piece

SWITCHES = ("enable_thinking", "thinking", "reasoning")
"""Variables by which templates of reasoning models choose between prompts."""

_WITHIN = "the template prints other messages within the turn, and no stop token before them"

OPEN_TAG = re.compile(r"[<\[][^<>\[\]\s]*$")
"""A marker that is not closed."""


class Fit(IntEnum):
    """How the text before a turn compares with what the model is served with; the smaller the better."""

    SERVED = 0
    """It is the prompt."""
    SWITCHED = 1
    """It is the prompt once a switch, such as ``enable_thinking``, is set otherwise."""
    CLOSEST = 2
    """What came before is the same, but the generation prompt itself is printed otherwise."""
    REWRITTEN = 3
    """Earlier messages read otherwise than they did when the turn was served."""


class Turn(NamedTuple):
    """An assistant turn in a rendering.

    ``spans`` are the half-open ranges of characters that the model writes: one, unless the template
    prints other messages in between. ``stop`` is the range of the token that ends the last, if any does.
    ``headed`` tells that the header of the role is part of it: the template leaves it out of the prompt.
    """

    message: int
    spans: tuple[tuple[int, int], ...]
    stop: tuple[int, int] | None
    own: tuple[Piece, ...]
    fit: Fit
    switch: str = ""
    headed: bool = False


class Habits(NamedTuple):
    """What is known of a template beforehand.

    Attributes:
        stops: the strings that end a turn.
        told: those of them that the model's files name.
        role: the header of an assistant turn, as far as the generation prompt has it too; "" if it has none.
        last: how a plain turn reads that is the last one: without a stop token, and its fit; None if nobody knows.
        lead: what the template prints of a turn before the assistant's own text.
        headless: it prints *lead*, but no generation prompt, so that nobody serves it.
    """

    stops: re.Pattern[str]
    told: re.Pattern[str]
    role: str = ""
    last: tuple[bool, int] | None = None
    lead: str = ""
    headless: bool = False


class Served:
    """One conversation under one template: its renderings, and the prompts that its turns are served with.

    Args:
        messages: as a template gets them.
        variables: everything else that it gets.
    """

    def __init__(
        self,
        template: ChatTemplate,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
        constant_prompts: dict[str, str],
    ) -> None:
        self.template = template
        self.messages = messages
        self.tools = tools
        self.variables = variables
        self._constant_prompts = constant_prompts
        self._prompts: dict[tuple[int, str], str | None] = {}

    def layout(self, messages: int) -> Layout:
        """Return the rendering of the first *messages* messages.

        Raises:
            RowError: the template refuses them.
        """
        return Layout(
            self.template.trace(self.messages[:messages], self.tools, **self.variables), self.messages[:messages]
        )

    def verify(self, layout: Layout, messages: int) -> None:
        """Make sure that *layout*, of the first *messages* messages, is what the template gives without tracking.

        Raises:
            RowError: it is not.
        """
        if layout.text != self.template.render(self.messages[:messages], self.tools, **self.variables):
            raise RowError("the template treats tracked text otherwise than plain text, so nothing is certain")

    def prompt(self, message: int, switch: str = "") -> str | None:
        """Return what the model is served with before it writes *message*; None if the template refuses."""
        key = (message, switch)
        if key not in self._prompts:
            try:
                self._prompts[key] = self.template.render(
                    self.messages[:message], self.tools, True, **self._switched(switch)
                )
            except RowError:
                self._prompts[key] = None
        return self._prompts[key]

    def prompt_layout(self, message: int, switch: str = "") -> Layout:
        """Return that prompt with the origin of its parts."""
        before = self.messages[:message]
        return Layout(self.template.trace(before, self.tools, True, **self._switched(switch)), before)

    def reads_tools(self, text: str) -> bool:
        """Tell whether *text*, the whole conversation, would be another one without tools."""
        try:
            return self.template.render(self.messages, None, **self.variables) != text
        except RowError:
            return True

    def proven_start(self, message: int, layout: Layout) -> int | None:
        """Return where *message* begins if the template's source proves it, without a rendering of its prompt.

        What was printed before the template knew of the message is the same in its prompt, and what
        follows is the same in every prompt.
        """
        if not self.template.constant_prompt or message >= len(layout.known):
            return None
        known = layout.known[message]
        if not message or known is None:
            return None
        key = repr(self.variables)
        if key not in self._constant_prompts:
            prompt = self.prompt(message)
            if prompt is None or not prompt.startswith(layout.text[:known]):
                return None
            self._constant_prompts[key] = prompt[known:]
        tail = self._constant_prompts[key]
        return known + len(tail) if layout.text.startswith(tail, known) else None

    def switches(self) -> list[str]:
        """Return the other settings of the switches that the template has, as ``name=true``."""
        return [
            f"{name}={value}"
            for name in SWITCHES
            if name in self.template.variables
            for value in ("false", "true")
            if self.variables.get(name) is not (value == "true")
        ]

    def _switched(self, switch: str) -> Mapping[str, Any]:
        name, _, value = switch.partition("=")
        return {**self.variables, name: value == "true"} if name else self.variables


def find_turn(served: Served, layout: Layout, message: int, habits: Habits) -> Turn:
    """Return the turn that writes *message* in the rendering *layout*.

    Raises:
        RowError: where it begins or what belongs to it is uncertain.
    """
    if habits.headless:
        raise RowError(
            f"message {message + 1}: the template has no generation prompt, yet prints {habits.lead.strip()!r} before "
            "the turn, so it does not tell what the model is served with"
        )
    start, fit, switch = _start(served, layout, message, habits)
    own = layout.own_from(message, start)
    fields = served.messages[message]
    if not own and _has_text(fields):
        raise RowError(f"message {message + 1}: the template prints nothing of what the assistant wrote")
    _check_calls(layout, message, fields, own)
    spans: list[tuple[int, int]] = []
    begin = last = start
    seen: set[int] = set()
    for number, piece in enumerate(own):
        if piece.start > last and (cut := _cut(layout, message, last, piece, seen, habits)) and last > begin:
            if cut[1] is None:
                own = own[:number]
                break
            spans.append((begin, cut[0]))
            begin = cut[1]
        seen.add(piece.tag & 7)
        last = max(last, piece.end)
    end, stop = _end(layout, message, last, habits)
    unsure = fit > Fit.SWITCHED or not layout.block_of(message, start)
    if not own and unsure and layout.text[start : stop[0] if stop else end].strip():
        raise RowError(f"message {message + 1}: it is empty, and the template does not show where it stands")
    spans.append((begin, end))
    if any(layout.others_between(message, *span) for span in spans):
        raise RowError(f"message {message + 1}: the template prints text of other messages within the turn")
    headed = bool(own and habits.role) and habits.role in layout.text[start : own[0].start]
    return Turn(message, tuple(spans), stop, tuple(own), fit, switch, headed)


def _check_calls(layout: Layout, message: int, fields: Mapping[str, Any], own: Sequence[Piece]) -> None:
    """Make sure that the template prints the names and arguments of all calls of a turn.

    Raises:
        RowError: it does not.
    """
    texts = [layout.text[piece.start : piece.end] for piece in own]
    for call in fields.get("tool_calls") or ():
        function = call.get("function", call)
        name, arguments = function.get("name", ""), function.get("arguments")
        if name and not any(name in text for text in texts):
            raise RowError(f"message {message + 1}: the template does not print the call of '{name}'")
        keys = [str(key) for key in arguments] if isinstance(arguments, Mapping) else []
        printed = any(piece.tag & 7 == CALL for piece in own) if isinstance(arguments, str) else True
        if not printed or any(not any(key in text for text in texts) for key in keys):
            raise RowError(f"message {message + 1}: the template does not print the arguments of the call of '{name}'")


def _has_text(fields: Mapping[str, Any]) -> bool:
    return bool(str(fields.get("content") or "").strip() or fields.get("tool_calls"))


# where it begins


def _start(served: Served, layout: Layout, message: int, habits: Habits) -> tuple[int, Fit, str]:
    if (at := served.proven_start(message, layout)) is not None:
        return at, Fit.SERVED, ""
    prompt = served.prompt(message)
    if prompt is None and not message:
        raise RowError("message 1: the assistant speaks first, so there is no prompt to serve the turn with")
    if prompt is not None and layout.text.startswith(prompt):
        return len(prompt), Fit.SERVED, ""
    switches = served.switches()
    for switch in switches:
        other = served.prompt(message, switch)
        if other is not None and layout.text.startswith(other):
            return len(other), Fit.SWITCHED, switch
    own = layout.own[message]
    block = layout.block_of(message)
    here = own[0].start if own else block[0] if block else len(layout.text)
    if prompt is None:
        return _after_lead(layout, block, here, habits), Fit.CLOSEST, ""
    before = layout.last_before(here)
    anchor = before[1].end if before else 0
    rewritten = not prompt.startswith(layout.text[:anchor])
    tail = prompt[anchor:]
    if rewritten:
        tail, anchor = _tail(served.prompt_layout(message), layout, here)
    best = (anchor + len(tail), "") if layout.text.startswith(tail, anchor) else (-1, "")
    for switch in switches:
        other = served.prompt(message, switch)
        if best[0] >= 0 or other is None or (not rewritten and other.startswith(layout.text[:anchor])):
            continue  # one that agrees up to the turn would have fitted above
        other, place = _tail(served.prompt_layout(message, switch), layout, here)
        if layout.text.startswith(other, place):
            best = (place + len(other), switch)
    if best[0] >= 0:
        return best[0], Fit.REWRITTEN if rewritten else Fit.CLOSEST, best[1]
    limit = own[0].start if own else block[1] if block else len(layout.text)
    start = _align(tail, layout.text, anchor, limit)
    lead = _after_lead(layout, block, here, habits)
    if start is None or (start < lead and not set("<[") & set(layout.text[start:lead])):  # within the words of a header
        start = lead
    if not own and (stop := habits.stops.search(layout.text, start, limit)):
        start = start if layout.text[start : stop.start()].strip() else stop.start()
    return start, Fit.REWRITTEN if rewritten else Fit.CLOSEST, ""


def _tail(prompt: Layout, layout: Layout, here: int) -> tuple[str, int]:
    """Return what *prompt* adds to the messages, and where that would begin in *layout*."""
    last = prompt.last_before(len(prompt.text))
    if last is None:
        return prompt.text, 0
    owner, piece = last
    ends = [other.end for who, other in layout.printed if who == owner and other.end <= here and other.tag == piece.tag]
    before = layout.last_before(here)
    return prompt.text[piece.end :], max(ends, default=before[1].end if before else 0)


def _align(tail: str, text: str, base: int, limit: int) -> int | None:
    """Return where the text that begins like *tail* at *base* goes its own way, white space aside; None if at once.

    That is at *limit*, where the turn's own text begins, at the latest.
    """
    at, good = base, base
    seen: list[int] = []
    index = 0
    while index < len(tail) and at < limit:
        if tail[index] == text[at]:
            seen.append(at)
            index, at = index + 1, at + 1
            good = at
        elif tail[index].isspace():
            index += 1
        elif text[at].isspace():
            at += 1
        else:
            break
    rest = tail[index:]
    if not rest.strip():
        while tail[-1:].isspace() and good < limit and text[good].isspace():
            good += 1
        return good
    if at < limit and (tag := OPEN_TAG.search(text, base, good)):  # never cut a marker such as </think> in two
        good = max((place + 1 for place in seen if place < tag.start()), default=base)
    rest = text[good:limit]
    if not rest.strip():
        return limit
    for size in range(min(len(rest), len(tail)), 0, -1):  # the prompt may say more first, and end with the same header
        if rest[:size].strip() and tail.rstrip().endswith(rest[:size].rstrip()) and rest[size - 1] in ">]|}:":
            return good + size
    return good if text[base:good].strip() else None


def _after_lead(layout: Layout, block: tuple[int, int] | None, here: int, habits: Habits) -> int:
    """Return where the turn begins for want of a prompt: after what stands before any turn, or with its own text."""
    after = block[0] + len(habits.lead) if block else here
    return after if block and layout.text.startswith(habits.lead, block[0]) and after <= here else here


# where it ends


def _cut(
    layout: Layout, message: int, start: int, piece: Piece, seen: set[int], habits: Habits
) -> tuple[int, int | None] | None:
    """Return where the model stops before *piece* of its message, and where it goes on; None if it does not stop.

    It does not go on, None again, if the piece is a copy of a field that was *seen*, printed after the stop token.

    Raises:
        RowError: it has to stop somewhere, and nothing shows where.
    """
    if others := layout.others_between(message, start, piece.start):
        if stop := habits.stops.search(layout.text, start, others[0].start):
            return stop.end(), piece.start
        raise RowError(f"message {message + 1}: {_WITHIN}")
    if (stop := habits.told.search(layout.text, start, piece.start)) is None:
        return None
    at = layout.text.find(habits.role, stop.end(), piece.start) if habits.role else -1
    if at >= 0:
        return stop.end(), _after(layout, at, piece.start, habits)
    return (stop.end(), None) if piece.tag & 7 in seen else None


def _after(layout: Layout, at: int, end: int, habits: Habits) -> int:
    """Return where the header at *at* ends: before *end*, or there if only white space is left."""
    at += len(habits.role)
    return at if layout.text[at:end].strip() else end


def _end(layout: Layout, message: int, last: int, habits: Habits) -> tuple[int, tuple[int, int] | None]:
    """Return where the turn ends whose own text ends at *last*, and the range of the stop token, if there is one."""
    text = layout.text
    block = layout.block_of(message, last)
    others = layout.next_other(message, last)
    end = min(block[1], others) if block and block[1] >= last else None
    if stop := habits.stops.search(text, last, others if end is None else end):
        return stop.end(), stop.span()
    if block and end is not None and layout.next_other(message, last, headers=False) < block[1]:
        raise RowError(f"message {message + 1}: {_WITHIN}")
    # the stop token may be what opens the next turn: <|user|> of the GLM family
    after = last if end is None else end
    stop = habits.stops.search(text, after, layout.next_other(message, last, headers=False))
    if stop and not text[after : stop.start()].strip():
        return stop.end(), stop.span()
    return (last if end is None else last + len(text[last:end].rstrip())), None


def lost_text(turn: Turn, layout: Layout, fields: Mapping[str, Any]) -> int:
    """Return how many characters of what the assistant wrote the rendering does not show, white space aside."""
    wanted = {REASONING: str(fields.get("reasoning_content") or ""), CONTENT: str(fields.get("content") or "")}
    shown = {
        field: sum(
            len("".join(layout.text[piece.start : piece.end].split())) for piece in turn.own if piece.tag & 7 == field
        )
        for field in wanted
    }
    return sum(max(len("".join(text.split())) - shown[field], 0) for field, text in wanted.items())


def shows(turn: Turn, field: int) -> bool:
    """Tell whether the rendering prints anything of *field* in the turn."""
    fields = (CALL, CALL_NAME) if field == CALL else (field,)
    return any(piece.tag & 7 in fields for piece in turn.own)
