"""What ``sft preview`` shows: which tokens of an example are trained, on a terminal or as JSON.

:mod:`sftcore.inspection.preview_page` makes the page of the same.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from sftcore.core.types import IGNORE_INDEX
from sftcore.data.row_types import Origin
from sftcore.runtime.console import count

if TYPE_CHECKING:
    from sftcore.labelling import Labelled

    Shown = Sequence[tuple[Labelled, Origin]]
    """Examples, and the row that each was made of."""

MASKED, TRAINED, STOP, PARTLY, LOST = "masked", "trained", "stop", "partly", "lost"
"""What a cell may be. Partly: some of its tokens are trained. Lost: text that no token stands for."""

_NEWLINE, _STOP, _BORDER = "↵", "■", "│"
_BRACKETS = {MASKED: "{}", TRAINED: "⟦{}⟧", PARTLY: "⦃{}⦄", LOST: "⟪{}⟫"}
_COLOURS = {MASKED: "2", TRAINED: "4;32", STOP: "1;7;32", PARTLY: "4;33", LOST: "2;9", "head": "1", "weight": "1;35"}
_MARKS = "⟦⟧⦃⦄⟪⟫⟨⟩" + _NEWLINE + _STOP
_JOINERS = "\u200c\u200d"  # between letters, as in Persian, and between the parts of an emoji
_KEPT = "\n\t\u3000" + _JOINERS
_ATTACHED = _JOINERS + "🏻🏼🏽🏾🏿"


class Line(TypedDict, total=False):
    """An example as one line of JSON; ``weights`` only where there are any."""

    source: str
    messages: int
    skipped: int
    turns: list[int]
    text: str
    input_ids: list[int]
    labels: list[int]
    weights: list[float]


class Cell(NamedTuple):
    """A stretch of an example's text with its tokens: one, unless several make up a character, or none is left of it.

    ``position`` is that of the first token; ``ids``, ``names`` (in the vocabulary) and ``trained`` have one item each.
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
        """What its neighbours may have in common with it; a stop token belongs to the turn that it ends."""
        return TRAINED if self.state == STOP else self.state, self.weight


def as_json(example: Labelled, origin: Origin) -> Line:
    """Return *example* as ``--json`` prints it."""
    line = Line(
        source=str(origin),
        messages=example.messages,
        skipped=example.skipped,
        turns=list(example.turns),
        text=example.text,
        input_ids=list(example.input_ids),
        labels=list(example.labels),
    )
    if example.weights is not None:
        line["weights"] = list(example.weights)
    return line


def terminal(shown: Shown, tokenizer: Any, *, colour: bool, borders: bool = False) -> str:
    """Return the examples as text: coloured, or with brackets around what is trained.

    Args:
        borders: put a mark between tokens.
    """
    lines: list[str] = []
    border = _paint(_BORDER, MASKED, colour) if borders else ""
    for (example, _), head in zip(shown, heads(shown), strict=True):
        pieces: list[str] = []
        for (kind, weight), piece in groupby(cells(example, tokenizer), key=lambda cell: cell.kind):
            texts: list[str] = []
            for state, same in groupby(piece, key=lambda cell: cell.state):
                alike = [_cell(cell, borders) for cell in same]
                texts += [_paint(text, state, colour) for text in (alike if borders else ["".join(alike)])]
            body = border.join(texts)
            label = "" if weight == 1 else _paint(f"×{weight:g}", "weight", colour)
            pieces.append(label + (body if colour else _BRACKETS[kind].format(body)))
        lines += [_paint("  ".join(head), "head", colour), "", border.join(pieces), ""]
    return "\n".join([*lines, _paint(f"total  {totals(shown)}", "head", colour), ""])


def _cell(cell: Cell, borders: bool) -> str:
    """Return one cell for the terminal, without colour."""
    text = visible(cell.text, _MARKS + _BORDER * borders) or f"⟨{' '.join(cell.names)}⟩"
    if any(cell.trained):
        text = text.replace("\n", f"{_NEWLINE}\n")
    if borders and len(cell.ids) > 1:
        text += "".join("₀₁₂₃₄₅₆₇₈₉"[int(digit)] for digit in str(len(cell.ids)))
    return text + _STOP * (cell.state == STOP)


def _paint(text: str, style: str, colour: bool) -> str:
    """Return *text* in a colour that ends with each line, as ``less -R`` wants it."""
    if not colour:
        return text
    return "\n".join(line and f"\x1b[{_COLOURS[style]}m{line}\x1b[0m" for line in text.split("\n"))


def cells(example: Labelled, tokenizer: Any) -> Iterator[Cell]:
    """Yield the text of *example* from its begin to its end, cell by cell."""
    names = [one_line(str(name)) for name in tokenizer.convert_ids_to_tokens(list(example.input_ids))]
    stops = set(example.stops)
    done = 0
    for begin, end, first, last in _groups(example, tokenizer):
        if begin > done:
            yield Cell(example.text[done:begin], LOST)
        ids, labels = example.input_ids[first:last], example.labels[first:last]
        trained = [label != IGNORE_INDEX for label in labels]
        state = MASKED if not any(trained) else TRAINED if all(trained) else PARTLY
        if state == TRAINED and not stops.isdisjoint(range(first, last)):
            state = STOP
        weight = example.weights[first + trained.index(True)] if any(trained) and example.weights is not None else 1.0
        yield Cell(example.text[begin:end], state, weight, first, ids, names[first:last], trained)
        done = end
    if done < len(example.text):
        yield Cell(example.text[done:], LOST)


def _groups(example: Labelled, tokenizer: Any) -> Iterator[tuple[int, int, int, int]]:
    """Yield which characters belong to which tokens: begin and end of a range of each.

    Tokens that share a character as it is seen are together, also where all but one of them have no character.
    """
    ids, text = list(example.input_ids), example.text
    begin = done = first = 0
    for position, (start, end) in enumerate(example.offsets or _located(ids, text, tokenizer)):
        if start >= end:
            start = end = done
        joined = start < done or (done == start < end and _continues(text, start))
        if start == end or begin == done:  # a character whose tokens share its range so that some have none of it
            joined |= all("\ufffd" in tokenizer.decode(part) for part in (ids[first:position], [ids[position]]))
        if position and not joined:
            yield begin, done, first, position
            first, begin = position, start
        elif not position:
            begin = done = start
        done = max(done, end)
    if ids:
        yield begin, done, first, len(ids)


def _located(ids: list[int], text: str, tokenizer: Any) -> list[tuple[int, int]]:
    """Return the range of each token in *text* for a tokenizer that does not tell; empty where it cannot be found."""
    offsets: list[tuple[int, int]] = []
    done = 0
    for position in range(1, len(ids) + 1):
        piece = tokenizer.decode(ids[len(offsets) : position], clean_up_tokenization_spaces=False)
        if not text.startswith(piece or "\ufffd", done):
            if not piece or "\ufffd" in piece:  # the character goes on in the next token
                continue
            spaces = re.compile(r"\s*").match(text, done)  # some take the space before a word away
            piece = (spaces[0] if spaces else "") + piece
        found = text.startswith(piece, done)
        end = done + len(piece) * found
        offsets += [(done, end)] * (position - len(offsets))
        done = end
    return offsets + [(done, done)] * (len(ids) - len(offsets))


def _continues(text: str, start: int) -> bool:
    """Tell whether what is at *start* shows as a part of the character before it."""
    here, before = text[start], text[start - 1 : start]
    return here in _ATTACHED or before == "\u200d" or unicodedata.category(here).startswith("M")


def heads(shown: Shown) -> Iterator[list[str]]:
    """Yield the parts of each example's header: where it comes from, and what it holds."""
    of_row = Counter(origin for _, origin in shown)
    seen: Counter[Origin] = Counter()
    for example, origin in shown:
        seen[origin] += 1
        turns = ", ".join(str(turn + 1) for turn in example.turns)
        yield [
            one_line(str(origin)),
            *([f"example {seen[origin]} of {of_row[origin]}"] if of_row[origin] > 1 else []),
            count(example.messages, "message")
            + (f" ({example.skipped:,} skipped)" if example.skipped else "")
            + (f", trained: {turns}" if turns else ""),
            _counts([example]),
        ]


def totals(shown: Shown) -> str:
    """Return what the examples hold together."""
    rows = count(len({origin for _, origin in shown}), "row")
    return f"{count(len(shown), 'example')} of {rows}, {_counts([example for example, _ in shown])}"


def _counts(examples: Sequence[Labelled]) -> str:
    tokens = sum(len(example.labels) for example in examples)
    trained = sum(label != IGNORE_INDEX for example in examples for label in example.labels)
    stops = sum(len(example.stops) for example in examples)
    return f"{count(tokens, 'token')}, {trained:,} trained ({trained / max(1, tokens):.0%}), {count(stops, 'stop')}"


def visible(text: str, marks: str = "") -> str:
    """Return *text* with a name for each character that does not print, and for each of *marks*.

    Nothing is left that a terminal obeys, or that turns the direction of reading. Line breaks and tabs stay.
    """
    kept = (char in _KEPT or (char.isprintable() and char not in marks) for char in text)
    return "".join(char if keep else f"⟨U+{ord(char):04X}⟩" for char, keep in zip(text, kept, strict=True))


def one_line(text: str) -> str:
    """Return *text* made :func:`visible`, its line breaks too."""
    return visible(text).replace("\n", "⟨U+000A⟩")
