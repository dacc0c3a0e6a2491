"""One plan: how conversations of one shape are outlined, whatever their texts are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

from sftcore.labelling.boundaries import Borders
from sftcore.labelling.draft import Draft, Outline
from sftcore.labelling.rendering.provenance import CONTENT, split_tag
from sftcore.labelling.rendering.renderer import Rendering
from sftcore.labelling.spans import Span
from sftcore.labelling.warnings import LabelWarning

STAND_IN = "\n \n\u27e6{}\u27e7 \n \n"
"""What stands for the text of a message: however it is trimmed at either end, that shows."""

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
"""All ways to trim a text on the left and on the right: not, of line ends, or of all white space."""

_Place = tuple[int, int]
"""A border between characters: how many texts stand before it, and how many other characters."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How conversations of one shape are outlined.

    Attributes:
        messages: how many they have.
        fixed: what stands before, between and behind the texts; '' in place of each text.
        texts: of each text the message, and how it is trimmed.
        spans, begins, stops, edges: as in :class:`~sftcore.labelling.draft.Draft`, with places for characters.
        warnings: its warnings, as in :class:`~sftcore.labelling.draft.Outline`.
    """

    messages: int
    fixed: Sequence[str]
    texts: Sequence[tuple[int, _Trim]]
    spans: Sequence[tuple[_Place, _Place, float]]
    begins: Sequence[tuple[int, _Place]]
    stops: Sequence[tuple[_Place, _Place]]
    edges: Sequence[tuple[_Place, _Place]]
    warnings: Mapping[LabelWarning, int]

    @cached_property
    def borders(self) -> Borders:
        """Where the spans and edges are."""
        return Borders.of(self.spans, self.edges)

    @cached_property
    def verbatim(self) -> bool:
        """Whether the text of each message is printed once, in order, as it is."""
        return list(self.texts) == [(message, str) for message in range(self.messages)]

    def sketch(self, contents: Sequence[str]) -> Sketch:
        """Return what becomes of a conversation of this shape, whose messages have the *contents*."""
        texts = contents if self.verbatim else [trim(contents[message]) for message, trim in self.texts]
        parts = [*self.fixed]
        parts[1::2] = texts
        return Sketch("".join(parts), texts, self)


class Sketch(NamedTuple):
    """The outline of a conversation, of which only the text is written out.

    Attributes:
        text: of its one example.
        texts: of the messages in it, as they are printed.
        plan: what says the rest.
    """

    text: str
    texts: Sequence[str]
    plan: Plan

    @property
    def draft(self) -> Draft:
        """The example."""
        before = [0, *accumulate(map(len, self.texts))]

        def at(place: _Place) -> int:
            texts, others = place
            return before[texts] + others

        plan = self.plan
        return Draft(
            self.text,
            [Span(at(start), at(end), weight) for start, end, weight in plan.spans],
            plan.messages,
            [(message, at(start)) for message, start in plan.begins],
            [(at(start), at(end)) for start, end in plan.stops],
            [(at(start), at(end)) for start, end in plan.edges],
        )

    @property
    def outline(self) -> Outline:
        """All of it, written out."""
        made = Outline([self.draft])
        made.warnings.update(self.plan.warnings)
        return made


def plan_of(
    draft: Draft, rendering: Rendering, stand_ins: Sequence[str], warnings: Mapping[LabelWarning, int]
) -> Plan | None:
    """Return what *draft* says of all conversations of its shape; None if that is not certain."""
    if draft.text != rendering.text or draft.messages != len(stand_ins):
        return None
    fixed: list[str] = []
    texts: list[tuple[int, _Trim]] = []
    ranges: list[tuple[int, int]] = []
    at = 0
    for start, end, tag in rendering.pieces:
        if tag < 0 or split_tag(tag)[1] != CONTENT:
            if tag >= 0 or start == end:
                continue
            return None
        message = split_tag(tag)[0]
        trim = _trim(stand_ins[message], rendering.text[start:end])
        if trim is None or start < at:
            return None
        fixed += (rendering.text[at:start], "")
        texts.append((message, trim))
        ranges.append((start, end))
        at = end
    fixed.append(rendering.text[at:])
    if any("\u27e6" in text or "\u27e7" in text for text in fixed):
        return None

    def place(border: int) -> _Place:
        if any(start < border < end for start, end in ranges):
            raise _UncertainError
        before = [end - start for start, end in ranges if end <= border]
        return len(before), border - sum(before)

    def pairs(borders: Sequence[tuple[int, int]]) -> list[tuple[_Place, _Place]]:
        return [(place(start), place(end)) for start, end in borders]

    try:
        spans = [(place(span.start), place(span.end), span.weight) for span in draft.spans]
        begins = [(message, place(start)) for message, start in draft.begins]
        stops, edges = pairs(draft.stops), pairs(draft.edges)
    except _UncertainError:
        return None
    return Plan(len(stand_ins), fixed, texts, spans, begins, stops, edges, warnings)


class _UncertainError(Exception):
    """A border is within a text."""


def _trim(stand_in: str, printed: str) -> _Trim | None:
    """Return how *stand_in* is trimmed to become *printed*."""
    return next((trim for trim in _TRIMS if trim(stand_in) == printed), None)
