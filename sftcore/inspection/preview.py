"""``sft preview``: which tokens of an example are trained, on a terminal or as JSON.

:mod:`sftcore.inspection.preview_page` shows the same as a page.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from sftcore.core.types import IGNORE_INDEX
from sftcore.data.row_types import Origin
from sftcore.runtime.console import count

if TYPE_CHECKING:
    from sftcore.labelling import LabelledExample

    SourcedExamples = Sequence[tuple[LabelledExample, Origin]]
    """Examples, each with the row that it comes from."""

MASKED, TRAINED, STOP, PARTLY, LOST = "masked", "trained", "stop", "partly", "lost"
"""States of a cell. Partly: some of its tokens are trained. Lost: text for which there is no token."""

_NEWLINE, _STOP, _BOUNDARY = "↵", "■", "│"
_BRACKETS = {MASKED: "{}", TRAINED: "⟦{}⟧", PARTLY: "⦃{}⦄", LOST: "⟪{}⟫"}
_COLOURS = {MASKED: "2", TRAINED: "4;32", STOP: "1;7;32", PARTLY: "4;33", LOST: "2;9", "header": "1", "weight": "1;35"}
_MARKS = "⟦⟧⦃⦄⟪⟫⟨⟩" + _NEWLINE + _STOP
_JOINERS = "\u200c\u200d"  # between letters, as in Persian, and between the parts of an emoji
_PRINTED = "\n\t\u3000" + _JOINERS
_ATTACHED = _JOINERS + "🏻🏼🏽🏾🏿"


class Cell(NamedTuple):
    """A piece of an example's text with its token; with several where they make up one character, or with none.

    Attributes:
        position: index of the first token in the example.
        ids: of the tokens.
        names: of the tokens, as the vocabulary has them.
        trained: whether each token is trained.
    """

    text: str
    state: str
    weight: float = 1.0
    position: int = 0
    ids: Sequence[int] = ()
    names: Sequence[str] = ()
    trained: Sequence[bool] = ()

    @property
    def kind(self) -> tuple[str, float]:
        """State and weight by which neighbours are grouped; a stop token belongs to the turn that it ends."""
        return TRAINED if self.state == STOP else self.state, self.weight


def example_to_json(example: LabelledExample, origin: Origin) -> dict[str, Any]:
    """*example* as ``--json`` prints it (docs/preview.md), without weights where each trained token weighs 1."""
    line: dict[str, Any] = dict(  # noqa: C408 (as a string, one of the keys would be the name of a component)
        source=str(origin),
        messages=example.messages,
        skipped=example.skipped,
        turns=list(example.turns),
        text=example.text,
        input_ids=list(example.input_ids),
        labels=list(example.labels),
    )
    return line if example.weights is None else {**line, "weights": list(example.weights)}


def render_examples(examples: SourcedExamples, tokenizer: Any, *, colour: bool, token_boundaries: bool = False) -> str:
    """The examples as text for a terminal: coloured, or with brackets around what is trained; with marks of tokens."""
    lines: list[str] = []
    boundary = _style(_BOUNDARY, MASKED, colour) if token_boundaries else ""
    for (example, _), header in zip(examples, example_headers(examples), strict=True):
        pieces: list[str] = []
        for (kind, weight), piece in groupby(to_cells(example, tokenizer), key=lambda cell: cell.kind):
            texts: list[str] = []
            for state, same in groupby(piece, key=lambda cell: cell.state):
                cells = [_format_cell(cell, token_boundaries) for cell in same]
                texts += [_style(text, state, colour) for text in (cells if token_boundaries else ["".join(cells)])]
            body = boundary.join(texts)
            label = "" if weight == 1 else _style(f"×{weight:g}", "weight", colour)
            pieces.append(label + (body if colour else _BRACKETS[kind].format(body)))
        lines += [_style("  ".join(header), "header", colour), "", boundary.join(pieces), ""]
    return "\n".join([*lines, _style(f"total  {count_all(examples)}", "header", colour), ""])


def _format_cell(cell: Cell, token_boundaries: bool) -> str:
    text = escape_unprintable(cell.text, _MARKS + _BOUNDARY * token_boundaries) or f"⟨{' '.join(cell.names)}⟩"
    if any(cell.trained):
        text = text.replace("\n", f"{_NEWLINE}\n")
    if token_boundaries and len(cell.ids) > 1:
        text += "".join("₀₁₂₃₄₅₆₇₈₉"[int(digit)] for digit in str(len(cell.ids)))
    return text + _STOP * (cell.state == STOP)


def _style(text: str, style: str, colour: bool) -> str:
    """*text* with ANSI codes that begin and end on each line, as ``less -R`` needs them."""
    if not colour:
        return text
    return "\n".join(line and f"\x1b[{_COLOURS[style]}m{line}\x1b[0m" for line in text.split("\n"))


def to_cells(example: LabelledExample, tokenizer: Any) -> Iterator[Cell]:
    """Yield all text of *example*, cell by cell."""
    names = [escape_line(str(name)) for name in tokenizer.convert_ids_to_tokens(list(example.input_ids))]
    stops = set(example.stops)
    reached = 0
    for begin, end, first, last in _group_tokens(example, tokenizer):
        if begin > reached:
            yield Cell(example.text[reached:begin], LOST)
        ids, labels = example.input_ids[first:last], example.labels[first:last]
        trained = [label != IGNORE_INDEX for label in labels]
        state = MASKED if not any(trained) else TRAINED if all(trained) else PARTLY
        if state == TRAINED and not stops.isdisjoint(range(first, last)):
            state = STOP
        weight = example.weights[first + trained.index(True)] if any(trained) and example.weights is not None else 1.0
        yield Cell(example.text[begin:end], state, weight, first, ids, names[first:last], trained)
        reached = end
    if reached < len(example.text):
        yield Cell(example.text[reached:], LOST)


def _group_tokens(example: LabelledExample, tokenizer: Any) -> Iterator[tuple[int, int, int, int]]:
    """Yield ranges of characters with the range of their tokens: both begins and ends.

    Tokens of one visible character stay together, also where the offsets of all but one of them are empty.
    """
    ids, text = list(example.input_ids), example.text
    begin = reached = first = 0
    for position, (start, end) in enumerate(example.offsets or _locate_tokens(ids, text, tokenizer)):
        if start >= end:
            start = end = reached
        joined = start < reached or (reached == start < end and _extends_character(text, start))
        if start == end or begin == reached:  # bytes of one character: some of its tokens may have an empty range
            joined |= all("\ufffd" in tokenizer.decode(part) for part in (ids[first:position], [ids[position]]))
        if position and not joined:
            yield begin, reached, first, position
            first, begin = position, start
        elif not position:
            begin = reached = start
        reached = max(reached, end)
    if ids:
        yield begin, reached, first, len(ids)


def _locate_tokens(ids: list[int], text: str, tokenizer: Any) -> list[tuple[int, int]]:
    """The offsets of a tokenizer that returns none, found by decoding; empty ranges where that fails."""
    offsets: list[tuple[int, int]] = []
    reached = 0
    for position in range(1, len(ids) + 1):
        piece = tokenizer.decode(ids[len(offsets) : position], clean_up_tokenization_spaces=False)
        if not text.startswith(piece or "\ufffd", reached):
            if not piece or "\ufffd" in piece:  # the character continues in the next token
                continue
            spaces = re.compile(r"\s*").match(text, reached)  # some tokenizers remove the space before a word
            piece = (spaces[0] if spaces else "") + piece
        end = reached + len(piece) * text.startswith(piece, reached)
        offsets += [(reached, end)] * (position - len(offsets))
        reached = end
    return offsets + [(reached, reached)] * (len(ids) - len(offsets))


def _extends_character(text: str, start: int) -> bool:
    """Whether the character at *start* is displayed as a part of the one before it."""
    char, before = text[start], text[start - 1 : start]
    return char in _ATTACHED or before == "\u200d" or unicodedata.category(char).startswith("M")


def example_headers(examples: SourcedExamples) -> Iterator[list[str]]:
    """Yield the parts of each example's header: its source, and the numbers of its messages and tokens."""
    of_row = Counter(origin for _, origin in examples)
    seen: Counter[Origin] = Counter()
    for example, origin in examples:
        seen[origin] += 1
        place = [f"example {seen[origin]} of {of_row[origin]}"] if of_row[origin] > 1 else []
        skipped = f" ({example.skipped:,} skipped)" if example.skipped else ""
        turns = ", ".join(str(turn + 1) for turn in example.turns)
        messages = count(example.messages, "message") + skipped + (f", trained: {turns}" if turns else "")
        yield [escape_line(str(origin)), *place, messages, _count_tokens([example])]


def count_all(examples: SourcedExamples) -> str:
    """The numbers of all examples, rows and tokens."""
    rows = count(len({origin for _, origin in examples}), "row")
    return f"{count(len(examples), 'example')} of {rows}, {_count_tokens([example for example, _ in examples])}"


def _count_tokens(examples: Sequence[LabelledExample]) -> str:
    tokens = sum(len(example.labels) for example in examples)
    trained = sum(label != IGNORE_INDEX for example in examples for label in example.labels)
    stops = sum(len(example.stops) for example in examples)
    return f"{count(tokens, 'token')}, {trained:,} trained ({trained / max(1, tokens):.0%}), {count(stops, 'stop')}"


def escape_unprintable(text: str, marks: str = "") -> str:
    """*text* with ``⟨U+...⟩`` for each character that does not print, and for each of *marks*.

    No control character is left, nor one that changes the direction of text. Line breaks and tabs stay.
    """
    printable = (char in _PRINTED or (char.isprintable() and char not in marks) for char in text)
    return "".join(char if keep else f"⟨U+{ord(char):04X}⟩" for char, keep in zip(text, printable, strict=True))


def escape_line(text: str) -> str:
    """*text* in one line: :func:`escape_unprintable`, line breaks included."""
    return escape_unprintable(text).replace("\n", "⟨U+000A⟩")
