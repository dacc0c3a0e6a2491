"""Conversations of one shape, outlined from one plan.

Where the source shows that a template does not look at what the messages say (see
``content_independence``), all conversations with the same roles are printed alike but for
the texts. So one of them is outlined with stand-ins for the texts, and what came of it is the plan: what stands
between the texts, how each is trimmed, and between which characters of it all the trained spans begin and end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from sftcore.core.errors import RowError
from sftcore.core.labelling_policy import Policy
from sftcore.core.types import Conversation, Message, PlainMessages
from sftcore.labelling.draft import Outline
from sftcore.labelling.fast_path.content_independence import ROLES, blind_to
from sftcore.labelling.fast_path.plan import STAND_IN, Plan, Sketch, plan_of
from sftcore.labelling.rendering.limits import CHARACTERS
from sftcore.labelling.rendering.renderer import ChatTemplate
from sftcore.labelling.warnings import Remark
from sftcore.runtime.console import warn

SHARE = 1024
"""Of so many conversations one is outlined without its plan too, and compared; so is the first of each plan."""

SHAPES = 10_000
"""How many shapes are remembered."""

_ALLOWED = frozenset({Remark.HEADED, Remark.FIRST, Remark.NO_STOP, Remark.NO_SYSTEM, Remark.NO_USER})
"""Remarks that follow from the roles alone.

Whether a turn is split off or switched does not: where the prompt ends with ``<think>``, an answer may begin with it.
"""

_Part = str | tuple[str, bool | None, float]
"""What a message is in a shape: its role, and how it is trained, unless that is as for most."""

_Shape = tuple[_Part, ...]

_NEVER, _ONCE = (Plan(0, [""], [], [], [], [], [], {}) for _ in range(2))
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
        self._plans: dict[object, dict[_Shape, Plan | None]] = {}
        self._policy: Policy | None = None
        self._of_policy: dict[_Shape, Plan | None] = {}
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
        found = self.sketch(conversation, policy)
        return found.outline if isinstance(found, Sketch) else found

    def sketch(self, conversation: Conversation, policy: Policy) -> Sketch | Outline | None:
        """Return what :meth:`outline` does, not written out unless the plan turned out to be wrong.

        Raises:
            RowError: as the outline without a plan does, for a conversation that is compared.
        """
        if self._words is None or policy.reasoning == "mask" or conversation.tools or conversation.template_kwargs:
            return None
        messages = conversation.messages
        contents = (
            messages.contents if isinstance(messages, PlainMessages) else [message.content for message in messages]
        )
        if (shape := _shape(messages)) is None or not self._is_blind_to(contents):
            return None
        if policy is not self._policy:
            self._policy, self._of_policy = policy, self._plans_of(policy)
        plans = self._of_policy
        plan = plans.get(shape, _NEVER)
        if plan is _NEVER:
            if len(plans) < SHAPES:
                plans[shape] = _ONCE
            return None
        new = plan is _ONCE
        if new:
            plan = plans[shape] = self._plan(messages, policy)
        if plan is None:
            return None
        found = plan.sketch(contents)
        self._asked += 1
        return self._compared(found, conversation, policy) if new or not self._asked % SHARE else found

    def _compared(self, found: Sketch, conversation: Conversation, policy: Policy) -> Sketch | Outline:
        """Return *found* if *conversation* is outlined like that without its plan; else what is, and all plans end.

        Raises:
            RowError: as the outline without a plan does.
        """
        plain = self._outline(conversation, policy)
        if plain == found.outline:
            return found
        warn("a conversation was labelled otherwise by its plan; from here on each is rendered")
        self._words = None
        return plain

    def _plans_of(self, policy: Policy) -> dict[_Shape, Plan | None]:
        """Return the plans for what *policy* has trained."""
        key = (str(policy.train_on), policy.train_on_stop, policy.context, policy.weight)
        return self._plans.setdefault(key, {})

    def _is_blind_to(self, contents: Sequence[str]) -> bool:
        """Tell whether the template does not look at what *contents* say, nor is it too much to print."""
        assert self._words is not None
        for content in contents:
            if not content or content.isspace():
                return False
        for asked in self._words:
            for content in contents:
                if asked in content:
                    return False
        return sum(map(len, contents)) < CHARACTERS // 4

    def _plan(self, messages: Sequence[Message], policy: Policy) -> Plan | None:
        """Return the plan for conversations of the shape of *messages*; None if there is none."""
        if policy.train_on == "all" and any(message.train is not None or not message.weight for message in messages):
            return None  # where a turn lies that is left out may depend on what it says
        stand_ins = [STAND_IN.format(index) for index in range(len(messages))]
        conversation = Conversation(
            tuple(
                Message(message.role, text, train=message.train, weight=message.weight)
                for message, text in zip(messages, stand_ins, strict=True)
            )
        )
        if not self._is_blind_to(stand_ins):  # the template asks for what is in the stand-ins
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
        return plan_of(outline.drafts[0], rendering, stand_ins, remarks)


def _shape(messages: Sequence[Message]) -> _Shape | None:
    """Return the shape of *messages*; None if one is more than a text of one of the three roles."""
    if isinstance(messages, PlainMessages):
        return messages.roles if ROLES.issuperset(messages.roles) else None
    shape = tuple([_part(message) for message in messages])
    return None if None in shape else cast("_Shape", shape)


def _part(message: Message) -> _Part | None:
    """Return what *message* is in a shape; None if it is more than a text of one of the three roles."""
    if (
        message.role not in ROLES
        or message.tool_calls
        or message.reasoning_content is not None
        or message.name is not None
        or message.tool_call_id is not None
    ):
        return None
    as_most = message.train is None and message.weight == 1
    return message.role if as_most else (message.role, message.train, message.weight)
