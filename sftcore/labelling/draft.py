"""Examples before they are tokenized: texts, and the characters that are trained."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from sftcore.labelling.spans import Span
from sftcore.labelling.warnings import LabelWarning


class Draft(NamedTuple):
    """An example before it is tokenized; all places are characters of *text*.

    Attributes:
        spans: what is trained, in order and apart.
        messages: how many messages are in it, from the first that is.
        begins: the messages that are trained in it, and where the first trained character of each is.
        stops: the trained stop tokens.
        edges: where each of its turns begins and ends.
    """

    text: str
    spans: list[Span]
    messages: int
    begins: list[tuple[int, int]]
    stops: list[tuple[int, int]]
    edges: list[tuple[int, int]]

    @property
    def weighted(self) -> bool:
        """Whether any of it weighs other than 1."""
        return any(span.weight != 1 for span in self.spans)


@dataclass
class Outline:
    """The examples of one conversation before they are tokenized, and its warnings."""

    drafts: list[Draft] = field(default_factory=list)
    warnings: Counter[LabelWarning] = field(default_factory=Counter)
    details: dict[LabelWarning, str] = field(default_factory=dict)
