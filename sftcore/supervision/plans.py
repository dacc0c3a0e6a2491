"""Conversations of one shape, outlined from one plan.

Where the source shows that a template does not look at what the messages say (see
:mod:`~sftcore.supervision.blindness`), all conversations with the same roles are printed alike but for
the texts. So one of them is outlined with stand-ins for the texts, and what came of it is the plan: what stands
between the texts, how each is trimmed, and between which characters of it all the trained spans begin and end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sftcore.errors import RowError
from sftcore.report import warn
from sftcore.supervision.blindness import ROLES, blind_to
from sftcore.supervision.draft import Draft, Outline
from sftcore.supervision.meter import CHARACTERS
from sftcore.supervision.policy import Policy
from sftcore.supervision.remarks import Remark
from sftcore.supervision.spans import Span
from sftcore.supervision.template import ChatTemplate, Rendering
from sftcore.supervision.tracked import CONTENT, split_tag
from sftcore.types import Conversation, Message

SHARE = 64
"""Of so many conversations one is outlined without its plan too, and compared."""

SHAPES = 10_000
"""How many shapes are remembered."""

_STAND_IN = "\n \n\u27e6{}\u27e7 \n \n"
"""What stands for the text of a message: however it is trimmed at either end, that shows."""

_Trim = Callable[[str], str]
_LEFT: Sequence[_Trim] = (str, lambda text: text.lstrip("\n"), str.lstrip)
_RIGHT: Sequence[_Trim] = (str, lambda text: text.rstrip("\n"), str.rstrip)

_ALLOWED = frozenset({Remark.HEADED, Remark.FIRST, Remark.NO_STOP, Remark.NO_SYSTEM, Remark.NO_USER})
"""Remarks that follow from the roles alone.

Whether a turn is split off or switched does not: where the prompt ends with ``<think>``, an answer may begin with it.
"""

_Shape = tuple[tuple[str, bool | None, float], ...]
_Place = tuple[int, int]
"""A border between characters: how many texts stand before it, and how many other characters."""


class _Plan(NamedTuple):
    """How conversations of one shape are outlined.

    Attributes:
        before: what stands before the first text.
        texts: of each text the message, how it is trimmed on either side, and what stands behind it.
        places: the borders of which the others are numbers.
    """

    before: str
    texts: list[tuple[int, _Trim, _Trim, str]]
    places: list[_Place]
    spans: list[tuple[int, int, float]]
    begins: list[tuple[int, int]]
    stops: list[tuple[int, int]]
    edges: list[tuple[int, int]]
    remarks: Mapping[Remark, int]

    def draft(self, messages: Sequence[Message]) -> Draft:
        """Return the one example of a conversation of this shape."""
        parts = [self.before]
        size = 0
        sizes = [0]
        for message, left, right, after in self.texts:
            text = right(left(messages[message].content))
            parts += (text, after)
            size += len(text)
            sizes.append(size)
        at = [sizes[texts] + others for texts, others in self.places]
        return Draft(
            "".join(parts),
            [Span(at[start], at[end], weight) for start, end, weight in self.spans],
            len(messages),
            [(message, at[start]) for message, start in self.begins],
            [(at[start], at[end]) for start, end in self.stops],
            [(at[start], at[end]) for start, end in self.edges],
        )

    def outline(self, messages: Sequence[Message]) -> Outline:
        """Return the outline of a conversation of this shape."""
        made = Outline([self.draft(messages)])
        if self.remarks:
            made.remarks.update(self.remarks)
        return made


_NEVER, _ONCE = _Plan("", [], [], [], [], [], [], {}), _Plan("", [], [], [], [], [], [], {})
"""In place of plans: of a shape that was never seen, or once. A plan is made for the second conversation of a shape."""


class Plans:
    """Outlines conversations from plans, and from time to time compares.

    Args:
        outline: outlines a conversation without a plan; may raise ``RowError``.
        fields: returns a message as the template gets it.
        variables: the further variables of the template.
    """

    def __init__(
        self,
        template: ChatTemplate,
        outline: Callable[[Conversation, Policy], Outline],
        fields: Callable[[Message], Mapping[str, Any]],
        variables: Mapping[str, Any],
    ) -> None:
        self._template = template
        self._outline = outline
        self._fields = fields
        self._variables = variables
        self._words = blind_to(template.tree)
        self._plans: dict[object, dict[_Shape, _Plan | None]] = {}
        self._policy: Policy | None = None
        self._of_policy: dict[_Shape, _Plan | None] = {}
        self._asked = 0

    @property
    def blind(self) -> bool:
        """Whether the template is shown to be blind, so that there are plans."""
        return self._words is not None

    def outline(self, conversation: Conversation, policy: Policy) -> Outline | None:
        """Return the outline of *conversation*; None if there is no plan for it.

        Raises:
            RowError: as the outline without a plan does, for a conversation that is compared.
        """
        if self._words is None or policy.reasoning == "mask" or (shape := self._shape(conversation)) is None:
            return None
        messages = conversation.messages
        if policy is not self._policy:
            self._policy, self._of_policy = policy, self._plans_of(policy)
        plans = self._of_policy
        plan = plans.get(shape, _NEVER)
        if plan is _NEVER:
            if len(plans) < SHAPES:
                plans[shape] = _ONCE
            return None
        if plan is _ONCE:
            plan = plans[shape] = self._plan(messages, policy)
        if plan is None:
            return None
        found = plan.outline(messages)
        self._asked += 1
        if not self._asked % SHARE:
            plain = self._outline(conversation, policy)
            if plain != found:
                warn("a conversation was labelled otherwise by its plan; from here on each is rendered")
                self._words = None
                return plain
        return found

    def _plans_of(self, policy: Policy) -> dict[_Shape, _Plan | None]:
        """Return the plans for what *policy* has trained."""
        key = (str(policy.train_on), policy.train_on_stop, policy.context, policy.weight)
        return self._plans.setdefault(key, {})

    def _shape(self, conversation: Conversation) -> _Shape | None:
        """Return the shape of *conversation*; None if it is not one of those that the template is blind to."""
        words = self._words
        assert words is not None
        if conversation.tools or conversation.template_kwargs:
            return None
        size = 0
        shape = []
        for message in conversation.messages:
            content = message.content
            if (
                message.role not in ROLES
                or message.tool_calls
                or message.reasoning_content is not None
                or message.name is not None
                or message.tool_call_id is not None
                or not content
                or content.isspace()
            ):
                return None
            size += len(content)
            for asked in words:
                if asked in content:
                    return None
            shape.append((message.role, message.train, message.weight))
        return tuple(shape) if size < CHARACTERS // 4 else None

    def _plan(self, messages: Sequence[Message], policy: Policy) -> _Plan | None:
        """Return the plan for conversations of the shape of *messages*; None if there is none."""
        if policy.train_on == "all" and any(message.train is not None or not message.weight for message in messages):
            return None  # where a turn lies that is left out may depend on what it says
        stand_ins = [_STAND_IN.format(index) for index in range(len(messages))]
        conversation = Conversation(
            tuple(
                Message(message.role, text, train=message.train, weight=message.weight)
                for message, text in zip(messages, stand_ins, strict=True)
            )
        )
        if self._shape(conversation) is None:  # the template asks for what is in the stand-ins
            return None
        try:
            outline = self._outline(conversation, policy)
            fields = [self._fields(message) for message in conversation.messages]
            rendering = self._template.trace(fields, None, **self._variables)
        except RowError:
            return None
        remarks = {remark: times for remark, times in outline.remarks.items() if times}
        if len(outline.drafts) != 1 or not remarks.keys() <= _ALLOWED or outline.details:
            return None
        return _planned(outline.drafts[0], rendering, stand_ins, remarks)


def _planned(
    draft: Draft, rendering: Rendering, stand_ins: Sequence[str], remarks: Mapping[Remark, int]
) -> _Plan | None:
    """Return what *draft* says of all conversations of its shape; None if that is not certain."""
    if draft.text != rendering.text or draft.messages != len(stand_ins):
        return None
    between: list[str] = []
    texts: list[tuple[int, _Trim, _Trim]] = []
    ranges: list[tuple[int, int]] = []
    at = 0
    for start, end, tag in rendering.pieces:
        if tag < 0 or split_tag(tag)[1] != CONTENT:
            if tag >= 0 or start == end:
                continue
            return None
        message = split_tag(tag)[0]
        trims = _trims(stand_ins[message], rendering.text[start:end])
        if trims is None or start < at:
            return None
        between.append(rendering.text[at:start])
        texts.append((message, *trims))
        ranges.append((start, end))
        at = end
    between.append(rendering.text[at:])
    if any("\u27e6" in text or "\u27e7" in text for text in between):
        return None

    places: dict[_Place, int] = {}

    def place(border: int) -> int:
        """Return the number of a place."""
        if any(start < border < end for start, end in ranges):
            raise _UncertainError
        before = [end - start for start, end in ranges if end <= border]
        return places.setdefault((len(before), border - sum(before)), len(places))

    def pairs(borders: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(place(start), place(end)) for start, end in borders]

    try:
        spans = [(place(span.start), place(span.end), span.weight) for span in draft.spans]
        begins = [(message, place(start)) for message, start in draft.begins]
        stops, edges = pairs(draft.stops), pairs(draft.edges)
    except _UncertainError:
        return None
    behind = [(*text, after) for text, after in zip(texts, between[1:], strict=True)]
    return _Plan(between[0], behind, list(places), spans, begins, stops, edges, remarks)


class _UncertainError(Exception):
    """A border is within a text."""


def _trims(stand_in: str, printed: str) -> tuple[_Trim, _Trim] | None:
    """Return how *stand_in* is trimmed on the left and on the right to become *printed*."""
    for left in _LEFT:
        for right in _RIGHT:
            if right(left(stand_in)) == printed:
                return left, right
    return None
