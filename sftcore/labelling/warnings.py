"""What a user should know about labelled rows, counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from enum import Enum

from sftcore.core.types import Conversation
from sftcore.labelling.rendering.provenance import CONTENT, REASONING
from sftcore.labelling.templated_conversation import TemplatedConversation
from sftcore.labelling.turns import TrainedRendering, Turn, lost_characters, prints_field

_FORMS = re.compile(r"\[(?:([^|\]]*)\|)?([^\]]*)\]")


class LabelWarning(Enum):
    """A warning; its value is the text after a number, with forms for one and for many: ``turn[s] [has|have] ...``."""

    OWN_EXAMPLE = (
        "turn[s] became [an example of its|examples of their] own, because the template prints [it|them] differently "
        "later in the conversation"
    )
    OTHER_SWITCH = "turn[s] [follows|follow] the prompt of a different setting of the template's thinking switch"
    OTHER_PROMPT = "turn[s] [follows|follow] a different generation prompt than at inference"
    REWRITTEN_HISTORY = "turn[s] [follows|follow] earlier messages that the template prints differently at inference"
    NOT_AS_SERVED = (
        "turn[s] [is|are] not trained, because no rendering shows [it|them] as at inference "
        "(data.context: whole trains [it|them])"
    )
    NO_PROMPT = (
        "assistant message[s] [is|are] not trained, because [it comes|they come] first and so [has|have] no prompt"
    )
    HEADER_TRAINED = (
        "turn[s] [is|are] trained with [its|their] header, because the template's prompt leaves it to the model"
    )
    NO_STOP = "turn[s] [ends|end] without a stop token, because the template prints none there"
    EMPTY = "turn[s] [is|are] empty, so that only the end of an answer is trained"
    STOP_ADDED = (
        "turn[s] [gets|get] the stop token that the model is served with, because the template ends [it|them] without "
        "one"
    )
    CROSSED_BOUNDARY = "turn[s] [begins or ends|begin or end] within a token, which is another one at inference"
    NO_SYSTEM = "system prompt[s] [is|are] not printed by this chat template"
    NO_USER = "user message[s] [is|are] not printed by this chat template"
    NO_RESULT = "tool result[s] [is|are] not printed by this chat template"
    NO_REASONING = "turn[s] [has|have] reasoning that this chat template does not print"
    PARTLY_PRINTED = "turn[s] [is|are] printed only in part by this chat template"
    NO_CONTENT = "turn[s] with a tool call also [has|have] text, which this chat template does not print"
    NO_TOOLS = "row[s] [has|have] tools, which this chat template does not print"
    OTHER_MARKS = "turn[s] [differs|differ] from the template's own {% generation %} marks"
    TRUNCATED = "turn[s] [was|were] cut at max_length and lost [its|their] stop token"
    AFTER_MAX_LENGTH = "turn[s] [is|are] not trained, because [it begins|they begin] after max_length"
    TEXT_CUT = "text[s] [was|were] cut at max_length"
    TURNS_DROPPED = "example[s] lost [its|their] oldest exchanges to fit max_length"
    SPLIT_TO_FIT = "example[s] [was|were] split off to fit max_length"
    TOO_LONG = "example[s] [was|were] dropped, because [it is|they are] longer than max_length"

    def text(self, times: int) -> str:
        """The text for this many cases, without the number."""
        return _FORMS.sub(lambda forms: (forms[1] or "") if times == 1 else forms[2], self.value)

    def message(self, times: int) -> str:
        """The text with the number."""
        return f"{times:,} {self.text(times)}"


def warn_of_turn(turn: Turn, warnings: Counter[LabelWarning]) -> None:
    """Count the warnings of a trained turn."""
    if turn.match:
        warnings[LabelWarning[turn.match.name]] += 1
    if turn.added_stop:
        warnings[LabelWarning.STOP_ADDED] += 1
    elif turn.stop is None:
        warnings[LabelWarning.NO_STOP] += 1
    warnings[LabelWarning.HEADER_TRAINED] += turn.has_header


def warn_of_unprinted(
    served: TemplatedConversation,
    conversation: Conversation,
    parts: Sequence[TrainedRendering],
    warnings: Counter[LabelWarning],
) -> None:
    """Count the warnings of what the template does not print."""
    by_role = {"system": LabelWarning.NO_SYSTEM, "user": LabelWarning.NO_USER, "tool": LabelWarning.NO_RESULT}
    for index, message in enumerate(conversation.messages):
        if message.role in by_role and message.content.strip() and not parts[0].layout.own[index]:
            warnings[by_role[message.role]] += 1
    for part in parts:
        for turn in part.turns:
            message = conversation.messages[turn.message]
            if not (message.content.strip() or message.reasoning_content or message.tool_calls):
                warnings[LabelWarning.EMPTY] += 1
            if message.reasoning_content and not prints_field(turn, REASONING):
                warnings[LabelWarning.NO_REASONING] += 1
            elif message.tool_calls and message.content.strip() and not prints_field(turn, CONTENT):
                warnings[LabelWarning.NO_CONTENT] += 1
            elif lost_characters(turn, part.layout, served.messages[turn.message]):
                warnings[LabelWarning.PARTLY_PRINTED] += 1
    if conversation.tools and not served.reads_tools(parts[0].layout.text):
        warnings[LabelWarning.NO_TOOLS] += 1


def warn_of_marks(part: TrainedRendering, warnings: Counter[LabelWarning], details: dict[LabelWarning, str]) -> None:
    """Count the turns that differ from the ``{% generation %}`` marks of the template."""
    text, marked = part.layout.text, part.layout.marked
    for turn in part.turns if marked else ():
        for start, end in turn.spans:
            theirs = [text[first:last] for first, last in marked if first < end and start < last]
            if not any(their.strip() == text[start:end].strip() for their in theirs):
                warnings[LabelWarning.OTHER_MARKS] += 1
                shown = f"they have {theirs[0][-40:]!r}" if theirs else "they exclude it"
                details.setdefault(LabelWarning.OTHER_MARKS, f"trained {text[start:end][-40:]!r}, {shown}")
                break
