"""Examples after tokenization: labelled tokens."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sftcore.core.types import IGNORE_INDEX
from sftcore.labelling.warnings import LabelWarning


@dataclass(frozen=True)
class LabelledExample:
    """One training example: a conversation, or its first messages, as labelled tokens.

    Attributes:
        text: the rendering by the chat template.
        input_ids: its tokens, as ``apply_chat_template`` gives them.
        labels: the token itself, or ``IGNORE_INDEX`` where it is not trained.
        weights: the weight of each token in the loss, 0 where it is not trained; None if all trained tokens have 1.
        offsets: the range of each token in *text*, in characters; empty for a slow tokenizer.
        stops: positions of trained stop tokens.
        messages: number of messages in it, from its first message.
        turns: indices in the conversation of the messages that are trained in it.
        begins: position of the first trained token of each of *turns*.
        skipped: number of messages dropped after the system prompt to fit the length.
    """

    text: str
    input_ids: list[int]
    labels: list[int]
    weights: list[float] | None
    offsets: list[tuple[int, int]]
    stops: list[int]
    messages: int
    turns: tuple[int, ...]
    begins: tuple[int, ...] = ()
    skipped: int = 0

    @property
    def trained(self) -> int:
        """Number of trained tokens."""
        return sum(label != IGNORE_INDEX for label in self.labels)


@dataclass
class LabelledConversation:
    """The examples of one conversation, and its warnings."""

    examples: list[LabelledExample] = field(default_factory=list)
    warnings: Counter[LabelWarning] = field(default_factory=Counter)
    details: dict[LabelWarning, str] = field(default_factory=dict)
    """The first case of some warnings."""
    longest: int = 0
    """Number of tokens of the longest example before truncation."""
