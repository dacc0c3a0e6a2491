"""Conversations of one shape, rendered from one plan: that of a conversation with placeholders for contents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

from sftcore.core.errors import RowError
from sftcore.core.labelling_policy import Policy
from sftcore.core.types import Conversation, Message, PlainMessages
from sftcore.labelling.fast_path.observed_template import ObservedTemplate
from sftcore.labelling.rendered import Boundaries, Place, RenderedConversation, RenderedExample
from sftcore.labelling.rendering.limits import CHARACTERS
from sftcore.labelling.rendering.provenance import CONTENT, split_tag
from sftcore.labelling.rendering.renderer import ChatTemplate, Rendering
from sftcore.labelling.warnings import LabelWarning
from sftcore.runtime.console import warn

PLACEHOLDER = "\n\n\u2003\n\n\n\u27e6{}\u27e7\n\n\u2003\n\n\n"
"""Text in place of a content: each way to trim it gives another text, and no template prints its white space itself."""

_Trim = Callable[[str], str]
_TRIMS: Sequence[_Trim] = (
    str,
    lambda text: text.lstrip("\n"),
    lambda text: text.rstrip("\n"),
    lambda text: text.strip("\n"),
    str.lstrip,
    lambda text: text.lstrip().rstrip("\n"),
    str.rstrip,
    lambda text: text.lstrip("\n").rstrip(),
    str.strip,
)
"""All ways to trim a text at its start and at its end: not at all, of line feeds, or of all white space."""

VERIFY_EVERY = 1024
"""One in this many conversations with a plan is rendered too, and compared; so is the first of each plan."""

SHAPES = 10_000
"""Number of shapes that are remembered."""

FAILURES = 64
"""Number of shapes without a plan in a row after which no more plans are made."""

ROLES = frozenset({"system", "user", "assistant"})
"""Roles of the messages in a shape."""

_ALLOWED = frozenset(
    {
        LabelWarning.HEADER_TRAINED,
        LabelWarning.NO_PROMPT,
        LabelWarning.NO_STOP,
        LabelWarning.NO_SYSTEM,
        LabelWarning.NO_USER,
        LabelWarning.STOP_ADDED,
    }
)
"""Warnings that follow from the roles alone.

Whether a turn is split off or switched does not: where the prompt ends with ``<think>``, an answer may begin with it.
"""

_Part = str | tuple[str, bool | None, float]
"""A message in a shape: its role, with whether it is trained and its weight where these are not the usual ones."""

_Shape = tuple[_Part, ...]


@dataclass(eq=False)
class Plan:
    """How all conversations of one shape are rendered, if the plan holds for their contents.

    Attributes:
        words: strings that no content may have.
        fixed: what is printed before, between and after the contents, with '' in place of each.
        printed: for each printed content, the index of its message and how it is trimmed.
        boundaries: what is trained; the printed contents are the inserted texts.
        messages: number of messages.
        warnings: the warnings of each conversation.
        is_verified: whether the plan was compared with a rendering.
    """

    words: Collection[str]
    fixed: Sequence[str]
    printed: Sequence[tuple[int, _Trim]]
    boundaries: Boundaries[Place]
    messages: int
    warnings: Counter[LabelWarning]
    is_verified: bool = False

    @cached_property
    def _is_verbatim(self) -> bool:
        """Whether each content is printed once, in order, as it is."""
        return [*self.printed] == [(message, str) for message in range(self.messages)]

    def render(self, contents: Sequence[str]) -> RenderedConversation | None:
        """Return the conversation of this shape with *contents*; None if the plan does not hold for them."""
        length = 0
        for content in contents:
            if not content or content.isspace():
                return None
            length += len(content)
        for words in self.words:
            for content in contents:
                if words in content:
                    return None
        if length > CHARACTERS // 4:  # the template may exceed a limit
            return None
        texts = contents if self._is_verbatim else [trim(contents[message]) for message, trim in self.printed]
        parts = [*self.fixed]
        parts[1::2] = texts
        example = RenderedExample("".join(parts), self.messages, self.boundaries, texts)
        return RenderedConversation([example], self.warnings)


def make_plan(
    conversation: RenderedConversation,
    renderings: Sequence[Rendering],
    placeholders: Sequence[str],
    words: Collection[str],
) -> Plan | None:
    """The plan of a shape, from its *conversation* with *placeholders* and its *renderings*; None if uncertain."""
    (example,) = conversation.examples
    text = example.text
    if conversation.warnings[LabelWarning.STOP_ADDED]:
        text = text[: max(start for start, _ in example.positions.stops)]
    rendering = next(
        (
            rendering
            for rendering in renderings
            if rendering.text.startswith(text) and (rendering.text == text or text != example.text)
        ),
        None,
    )
    if rendering is None or example.messages != len(placeholders):
        return None
    fixed: list[str] = []
    printed: list[tuple[int, _Trim]] = []
    ranges: list[tuple[int, int]] = []
    end_of_last = 0
    for start, end, tag in rendering.pieces:
        if start < end and (tag < 0 or end > len(text)):  # text of several messages, or after an added stop token
            return None
        message, field = split_tag(tag)
        if tag < 0 or field != CONTENT:
            continue
        trim = next((trim for trim in _TRIMS if trim(placeholders[message]) == rendering.text[start:end]), None)
        if trim is None or start < end_of_last:
            return None
        fixed += (rendering.text[end_of_last:start], "")
        printed.append((message, trim))
        ranges.append((start, end))
        end_of_last = end
    fixed.append(example.text[end_of_last:])
    if any("\u27e6" in text or "\u27e7" in text for text in fixed):
        return None

    def place(at: int) -> Place:
        if any(start < at < end for start, end in ranges):
            raise ValueError("a boundary is within a content")
        before = [end - start for start, end in ranges if end <= at]
        return len(before), at - sum(before)

    try:
        boundaries = example.positions.map(place)
    except ValueError:
        return None
    return Plan(words, fixed, printed, boundaries, len(placeholders), +conversation.warnings)


_NEVER, _ONCE = (Plan((), [""], [], Boundaries([], [], [], []), 0, Counter()) for _ in range(2))
"""In place of the plan of a shape that never appeared, or once. A plan is made for its second conversation."""


class Planner:
    """Renders conversations from plans, and verifies a sample of them.

    Args:
        render: renders a conversation by the given template, without a plan; may raise ``RowError``.
    """

    def __init__(
        self, template: ChatTemplate, render: Callable[[Conversation, Policy, ChatTemplate], RenderedConversation]
    ) -> None:
        self._template = template
        self._render = render
        self._plans: dict[object, dict[_Shape, Plan | None]] = {}
        self._policy: Policy | None = None
        self._of_policy: dict[_Shape, Plan | None] = {}
        self._rendered = self._failures = 0
        self._is_disabled = False

    @cached_property
    def _observed(self) -> ObservedTemplate:
        return ObservedTemplate(self._template.source)

    def render(self, conversation: Conversation, policy: Policy) -> RenderedConversation | None:
        """Return *conversation* rendered from a plan; None if there is none for it.

        Raises:
            RowError: as without a plan, for a conversation that is verified.
        """
        if self._is_disabled or policy.reasoning == "mask" or conversation.tools or conversation.template_kwargs:
            return None
        messages = conversation.messages
        contents = (
            messages.contents if isinstance(messages, PlainMessages) else [message.content for message in messages]
        )
        if (shape := _shape(messages)) is None:
            return None
        if policy is not self._policy:
            key = (str(policy.train_on), policy.train_on_stop, policy.context, policy.weight)
            self._policy, self._of_policy = policy, self._plans.setdefault(key, {})
        plans = self._of_policy
        plan = plans.get(shape, _NEVER)
        if plan is _NEVER:
            if len(plans) < SHAPES:
                plans[shape] = _ONCE
            return None
        if plan is _ONCE:
            plan = plans[shape] = self._make_plan(messages, policy) if self._failures < FAILURES else None
            self._failures = 0 if plan else self._failures + 1
        if plan is None or (rendered := plan.render(contents)) is None:
            return None
        self._rendered += 1
        if not plan.is_verified or not self._rendered % VERIFY_EVERY:
            plan.is_verified = True
            return self._verified(rendered, conversation, policy)
        return rendered

    def _verified(
        self, by_plan: RenderedConversation, conversation: Conversation, policy: Policy
    ) -> RenderedConversation:
        """The *conversation* as rendered without a plan; no more plans are used if it differs from *by_plan*."""
        rendered = self._render(conversation, policy, self._template)
        if rendered != by_plan:
            warn("a plan labelled a conversation differently from its rendering; from here on each is rendered")
            self._is_disabled = True
        return rendered

    def _make_plan(self, messages: Sequence[Message], policy: Policy) -> Plan | None:
        """Return the plan for conversations of the shape of *messages*; None if there is none."""
        if policy.train_on == "all" and any(message.train is not None or not message.weight for message in messages):
            return None  # the position of a turn that is excluded may depend on its content
        if policy.train_on == "all" and messages[0].role == "assistant":
            return None  # so may that of a turn without a prompt
        placeholders = [PLACEHOLDER.format(index) for index in range(len(messages))]
        observations = self._observed.observe()
        try:
            rendered = self._render(_with_contents(messages, placeholders), policy, self._observed)
        except RowError:
            return None
        warnings = {warning for warning, times in rendered.warnings.items() if times}
        if observations.inspected or len(rendered.examples) != 1 or not warnings <= _ALLOWED or rendered.details:
            return None
        words = observations.words
        plan = make_plan(rendered, observations.renderings, placeholders, words)
        if plan and LabelWarning.NO_STOP in warnings and not self._holds_for_tags(plan, messages, policy):
            plan = make_plan(rendered, observations.renderings, placeholders, words | {"<"})
        return plan if plan and plan.render(placeholders) else None

    def _holds_for_tags(self, plan: Plan, messages: Sequence[Message], policy: Policy) -> bool:
        """Whether *plan* holds for contents with a tag too: the labeller looks for a better rendering of these."""
        tagged = [PLACEHOLDER.format(f"<{index}") for index in range(len(messages))]
        try:
            return plan.render(tagged) == self._render(_with_contents(messages, tagged), policy, self._template)
        except RowError:
            return False


def _with_contents(messages: Sequence[Message], contents: Sequence[str]) -> Conversation:
    replaced = (replace(message, content=content) for message, content in zip(messages, contents, strict=True))
    return Conversation(tuple(replaced))


def _shape(messages: Sequence[Message]) -> _Shape | None:
    """The shape of *messages*; None if one is more than a text of one of the three roles."""
    if isinstance(messages, PlainMessages):
        return messages.roles if ROLES.issuperset(messages.roles) else None
    shape = tuple([_part(message) for message in messages])
    return None if None in shape else cast("_Shape", shape)


def _part(message: Message) -> _Part | None:
    """The message in a shape; None if it is more than a text of one of the three roles."""
    if (
        message.role not in ROLES
        or message.tool_calls
        or message.reasoning_content is not None
        or message.name is not None
        or message.tool_call_id is not None
    ):
        return None
    is_usual = message.train is None and message.weight == 1
    return message.role if is_usual else (message.role, message.train, message.weight)
