"""Warnings about the turns and messages of a rendered conversation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sftcore.core.types import Conversation
from sftcore.labelling.rendered import RenderedConversation
from sftcore.labelling.rendering.provenance import CONTENT, REASONING
from sftcore.labelling.templated_conversation import TemplatedConversation
from sftcore.labelling.token_labels import tokens_in
from sftcore.labelling.turns import TrainedRendering, Turn, lost_characters, prints_field
from sftcore.labelling.warnings import LabelWarning


def warn_of_turn(turn: Turn, warnings: Counter[LabelWarning]) -> None:
    """Count the warnings of a trained turn."""
    if turn.match:
        warnings[LabelWarning[turn.match.name]] += 1
    if turn.stop is None:
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
            if message.reasoning_content and not prints_field(turn, REASONING):
                warnings[LabelWarning.NO_REASONING] += 1
            elif message.tool_calls and message.content.strip() and not prints_field(turn, CONTENT):
                warnings[LabelWarning.NO_CONTENT] += 1
            elif lost_characters(turn, part.layout, served.messages[turn.message]):
                warnings[LabelWarning.PARTLY_PRINTED] += 1
    if conversation.tools and not served.reads_tools(parts[0].layout.text):
        warnings[LabelWarning.NO_TOOLS] += 1


def crosses_token(turn: tuple[int, int], offsets: Sequence[tuple[int, int]]) -> bool:
    """Whether a token extends across the start or the end of a *turn*."""
    return any(
        offsets[at][0] < boundary < offsets[at][1]
        for boundary in turn
        for at in tokens_in(offsets, [(boundary, boundary + 1)])
    )


def warn_of_marks(part: TrainedRendering, done: RenderedConversation) -> None:
    """Count the turns that differ from the ``{% generation %}`` marks of the template."""
    text, marked = part.layout.text, part.layout.marked
    for turn in part.turns if marked else ():
        for start, end in turn.spans:
            theirs = [text[first:last] for first, last in marked if first < end and start < last]
            if not any(their.strip() == text[start:end].strip() for their in theirs):
                done.warnings[LabelWarning.OTHER_MARKS] += 1
                shown = f"they have {theirs[0][-40:]!r}" if theirs else "they exclude it"
                done.details.setdefault(LabelWarning.OTHER_MARKS, f"trained {text[start:end][-40:]!r}, {shown}")
                break
