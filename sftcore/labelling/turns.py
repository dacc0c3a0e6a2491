"""The text of an assistant turn: from the end of its prompt through its stop token.

A turn begins where its prompt ends. The prompt is the template's rendering of the messages before it with
``add_generation_prompt``, as at inference. The turn ends with the first stop token after the last of its own text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from sftcore.core.errors import RowError
from sftcore.labelling import headers
from sftcore.labelling.layout import Layout
from sftcore.labelling.rendering.provenance import CALL, CONTENT, REASONING
from sftcore.labelling.rendering.renderer import Piece
from sftcore.labelling.template_profile import TemplateProfile
from sftcore.labelling.templated_conversation import TemplatedConversation

_WITHIN = "the template prints other messages within the turn, and no stop token before them"


class PromptMatch(IntEnum):
    """How the text before a turn compares with its prompt at inference; the smaller the better."""

    EXACT = 0
    """It is the prompt."""
    OTHER_SWITCH = 1
    """It is the prompt with another setting of a switch such as ``enable_thinking``."""
    OTHER_PROMPT = 2
    """Earlier messages are the same, but the generation prompt is printed differently."""
    REWRITTEN_HISTORY = 3
    """Earlier messages are printed differently than at inference."""


class Turn(NamedTuple):
    """An assistant turn in a rendering.

    Attributes:
        message: its index in the conversation.
        spans: half-open ranges of characters that the model writes: one, unless the template prints other messages
            in between.
        stop: the range of the token that ends the last span, if any does.
        own: pieces of the message in the turn.
        match: how the text before it compares with its prompt.
        has_header: whether the header of the role belongs to it, because the template leaves it out of the prompt.
        added_stop: the stop token at its end if the template prints none; '' otherwise.
    """

    message: int
    spans: tuple[tuple[int, int], ...]
    stop: tuple[int, int] | None
    own: tuple[Piece, ...]
    match: PromptMatch
    has_header: bool = False
    added_stop: str = ""

    def text_before_content(self, layout: Layout) -> str:
        """What the model writes before the turn's own text, if the text before the turn is its prompt."""
        exact = self.match == PromptMatch.EXACT and self.own
        return layout.text[self.spans[0][0] : self.own[0].start].strip() if exact else ""

    @property
    def needs_stop(self) -> bool:
        """Whether the template prints no stop token after it, and the position of its end is certain."""
        start, end = self.spans[-1]
        return self.stop is None and (start < end or self.match <= PromptMatch.OTHER_SWITCH)

    def with_stop(self, stop: str) -> Turn:
        """The turn with the string *stop* added at its end."""
        *before, (start, end) = self.spans
        after = end + len(stop)
        return self._replace(spans=(*before, (start, after)), stop=(end, after), added_stop=stop)


class TrainedRendering(NamedTuple):
    """A rendering of the first *messages* messages, and the turns that are trained in it, the last one first."""

    messages: int
    layout: Layout
    turns: list[Turn]

    @property
    def text(self) -> str:
        """What is trained: the rendering, or its beginning through a turn to which a stop token was added."""
        last = self.turns[0] if self.turns else None
        if last is None or last.stop is None or not last.added_stop:
            return self.layout.text
        return self.layout.text[: last.stop[0]] + last.added_stop


def locate_turn(served: TemplatedConversation, layout: Layout, message: int, profile: TemplateProfile) -> Turn:
    """The turn of *message* in the rendering *layout*.

    Raises:
        RowError: its start or content is uncertain.
    """
    if profile.no_generation_prompt:
        raise RowError(
            f"message {message + 1}: the template has no generation prompt, yet prints {profile.header.strip()!r} "
            "before the turn, so the prompt at inference is unknown; data.header: prompt makes that the prompt"
        )
    start, match = _start(served, layout, message, profile)
    own = layout.own_from(message, start)
    fields = served.messages[message]
    if own:
        start = headers.end_of_repeated(layout, message, start, own[0].start, profile)
        start = headers.end_of_named(layout, message, start, own[0].start, fields, profile)
    if not own and (str(fields.get("content") or "").strip() or fields.get("tool_calls")):
        raise RowError(f"message {message + 1}: the template prints nothing of what the assistant wrote")
    _check_calls(layout, message, fields, own)
    spans: list[tuple[int, int]] = []
    begin = last = start
    seen: set[int] = set()
    for number, piece in enumerate(own):
        if piece.start > last and (cut := _cut(layout, message, last, piece, seen, profile)) and last > begin:
            if cut[1] is None:
                own = own[:number]
                break
            spans.append((begin, cut[0]))
            begin = cut[1]
        seen.add(piece.tag & 7)
        last = max(last, piece.end)
    end, stop = _end(layout, message, last, profile)
    unsure = match > PromptMatch.OTHER_SWITCH or not layout.block_of(message, start)
    if not own and unsure and layout.text[start : stop[0] if stop else end].strip():
        raise RowError(f"message {message + 1}: it is empty, and the template does not show its position")
    spans.append((begin, end))
    if any(layout.others_between(message, *span) for span in spans):
        raise RowError(f"message {message + 1}: the template prints text of other messages within the turn")
    has_header = bool(own and profile.prompt_header) and profile.prompt_header in layout.text[start : own[0].start]
    return Turn(message, tuple(spans), stop, tuple(own), match, has_header)


def _check_calls(layout: Layout, message: int, fields: Mapping[str, Any], own: Sequence[Piece]) -> None:
    """Raise :class:`RowError` unless the template prints the names and arguments of all calls of a turn."""
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


# where it begins


def _start(
    served: TemplatedConversation, layout: Layout, message: int, profile: TemplateProfile
) -> tuple[int, PromptMatch]:
    if (at := served.constant_prompt_end(message, layout)) is not None:
        return at, PromptMatch.EXACT
    prompt = served.prompt(message)
    if prompt is None and not message:
        raise RowError("message 1: the conversation starts with the assistant, so the turn has no prompt")
    if prompt is not None and layout.text.startswith(prompt):
        return len(prompt), PromptMatch.EXACT
    switches = served.switches()
    for switch in switches:
        other = served.prompt(message, switch)
        if other is not None and layout.text.startswith(other):
            return len(other), PromptMatch.OTHER_SWITCH
    own = layout.own[message]
    block = layout.block_of(message)
    here = own[0].start if own else block[0] if block else len(layout.text)
    if prompt is None:
        return headers.end_of_usual(layout, block, here, profile), PromptMatch.OTHER_PROMPT
    before = layout.last_before(here)
    anchor = before[1].end if before else 0
    rewritten = not prompt.startswith(layout.text[:anchor])
    tail = prompt[anchor:]
    if rewritten:
        tail, anchor = _tail(served.layout(message, True), layout, here)
    start: int | None = anchor + len(tail) if layout.text.startswith(tail, anchor) else None
    for switch in switches:
        other = served.prompt(message, switch)
        if start is not None or other is None or (not rewritten and other.startswith(layout.text[:anchor])):
            continue  # one that agrees up to the turn would have fitted above
        other, place = _tail(served.layout(message, True, switch), layout, here)
        if layout.text.startswith(other, place):
            start = place + len(other)
    match = PromptMatch.REWRITTEN_HISTORY if rewritten else PromptMatch.OTHER_PROMPT
    limit = own[0].start if own else block[1] if block else len(layout.text)
    added = served.generation_prompt(message).lstrip() if start is None else ""
    if added and (found := layout.text.find(added, anchor, limit)) >= 0:
        start = headers.after_space(added, layout.text, found + len(added), limit)
    if start is not None:
        return start, match
    after = headers.end_of_other(layout, message, anchor, tail, served.messages[message], profile)
    if after is None and rewritten:
        return here, match
    if after is None:
        raise RowError(
            f"message {message + 1}: before the answer the template prints {layout.text[anchor:here][-60:]!r}, which "
            "is neither its generation prompt nor its usual header"
        )
    if not own and (stop := profile.stops.search(layout.text, after, limit)):
        after = after if layout.text[after : stop.start()].strip() else stop.start()
    return after, match


def _tail(prompt: Layout, layout: Layout, here: int) -> tuple[str, int]:
    """The text that *prompt* adds to the messages, and its expected start in *layout*."""
    last = prompt.last_before(len(prompt.text))
    if last is None:
        return prompt.text, 0
    owner, piece = last
    ends = [other.end for who, other in layout.printed if who == owner and other.end <= here and other.tag == piece.tag]
    before = layout.last_before(here)
    return prompt.text[piece.end :], max(ends, default=before[1].end if before else 0)


# where it ends


def _cut(
    layout: Layout, message: int, start: int, piece: Piece, seen: set[int], profile: TemplateProfile
) -> tuple[int, int | None] | None:
    """Where the model stops before *piece* of its message, and where it continues; None if it does not stop.

    The second is None if the piece is a copy of a field that was *seen*, printed after the stop token.
    """
    if others := layout.others_between(message, start, piece.start):
        if stop := profile.stops.search(layout.text, start, others[0].start):
            return stop.end(), piece.start
        raise RowError(f"message {message + 1}: {_WITHIN}")
    if (stop := profile.declared_stops.search(layout.text, start, piece.start)) is None:
        return None
    at = layout.text.find(profile.prompt_header, stop.end(), piece.start) if profile.prompt_header else -1
    if at >= 0:
        header_end = at + len(profile.prompt_header)  # white space that is left belongs to the header
        return stop.end(), header_end if layout.text[header_end : piece.start].strip() else piece.start
    return (stop.end(), None) if piece.tag & 7 in seen else None


def _end(layout: Layout, message: int, last: int, profile: TemplateProfile) -> tuple[int, tuple[int, int] | None]:
    """End of the turn whose own text ends at *last*, and the range of its stop token, if any."""
    text = layout.text
    block = layout.block_of(message, last)
    others = layout.next_other(message, last)
    end = min(block[1], others) if block and block[1] >= last else None
    if stop := profile.stops.search(text, last, others if end is None else end):
        return stop.end(), stop.span()
    if block and end is not None and layout.next_other(message, last, headers=False) < block[1]:
        raise RowError(f"message {message + 1}: {_WITHIN}")
    # the stop token may be what opens the next turn: <|user|> of the GLM family
    after = last if end is None else end
    stop = profile.stops.search(text, after, layout.next_other(message, last, headers=False))
    if stop and not text[after : stop.start()].strip():
        return stop.end(), stop.span()
    rest = text[last:end] if end is not None else ""
    return last + len(rest.removesuffix(profile.separator).rstrip()), None


def lost_characters(turn: Turn, layout: Layout, fields: Mapping[str, Any]) -> int:
    """Number of characters of the assistant's text that are not in the rendering, white space aside."""
    wanted = {REASONING: str(fields.get("reasoning_content") or ""), CONTENT: str(fields.get("content") or "")}
    shown = {
        field: sum(
            len("".join(layout.text[piece.start : piece.end].split())) for piece in turn.own if piece.tag & 7 == field
        )
        for field in wanted
    }
    return sum(max(len("".join(text.split())) - shown[field], 0) for field, text in wanted.items())


def prints_field(turn: Turn, field: int) -> bool:
    """Whether the turn has text of *field*, such as ``REASONING``."""
    return any(piece.tag & 7 == field for piece in turn.own)
