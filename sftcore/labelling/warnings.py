"""What a user should know about labelled rows, counted."""

from __future__ import annotations

import re
from enum import Enum

_FORMS = re.compile(r"\[(?:([^|\]]*)\|)?([^\]]*)\]")


class LabelWarning(Enum):
    """A warning; its value is the text after a number, with forms for one and for many: ``turn[s] [has|have] ...``."""

    OWN_EXAMPLE = (
        "turn[s] became [an example of its|examples of their] own, because the template prints [it|them] differently "
        "later in the conversation"
    )
    OTHER_SWITCH = "turn[s] [follows|follow] the prompt of another setting of the template's thinking switch"
    OTHER_PROMPT = "turn[s] [follows|follow] another generation prompt than the one at inference"
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
    TURNS_DROPPED = "example[s] lost [its|their] oldest exchanges to fit max_length"
    SPLIT_TO_FIT = "example[s] [was|were] split off to fit max_length"
    TOO_LONG = "example[s] [was|were] dropped, because [it is|they are] longer than max_length"

    def text(self, times: int) -> str:
        """The text for this many cases, without the number."""
        return _FORMS.sub(lambda forms: (forms[1] or "") if times == 1 else forms[2], self.value)

    def message(self, times: int) -> str:
        """The text with the number."""
        return f"{times:,} {self.text(times)}"
