"""A plan: how all conversations of one shape are rendered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from sftcore.labelling.rendered import Boundaries, Place, RenderedConversation, RenderedExample
from sftcore.labelling.rendering.limits import CHARACTERS
from sftcore.labelling.rendering.provenance import CONTENT, split_tag
from sftcore.labelling.rendering.renderer import Rendering
from sftcore.labelling.warnings import LabelWarning

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
    rendering = next((rendering for rendering in renderings if rendering.text == example.text), None)
    if rendering is None or example.messages != len(placeholders):
        return None
    fixed: list[str] = []
    printed: list[tuple[int, _Trim]] = []
    ranges: list[tuple[int, int]] = []
    end_of_last = 0
    for start, end, tag in rendering.pieces:
        if tag < 0 and start < end:  # text of several messages
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
    fixed.append(rendering.text[end_of_last:])
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
