"""Ranges of characters: merged where they overlap, and the range of a turn's reasoning."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftcore.labelling.rendering.provenance import CALL, CONTENT, REASONING, tag_of
from sftcore.labelling.rendering.renderer import Piece
from sftcore.labelling.spans import Span, merge_spans, reasoning_range
from sftcore.labelling.turns import PromptMatch, Turn

from ..sizes import examples

ranges = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(sorted)
spans = st.lists(st.builds(lambda r, w: Span(*r, w), ranges, st.sampled_from([0.0, 0.5, 1.0])), max_size=6)


@examples(300)
@given(spans)
def test_the_later_span_holds(spans: list[Span]) -> None:
    weights = [0.0] * 12
    for start, end, weight in spans:
        weights[start:end] = [weight] * (end - start)
    expected, at = [], 0
    for weight, run in groupby(weights):
        length = len(list(run))
        expected += [Span(at, at + length, weight)] if weight else []
        at += length
    assert merge_spans(spans) == expected


def turn(text: str, *own: tuple[str, int], stop: str = "") -> Turn:
    """Return a turn that is all of *text*, with these pieces of its own."""
    at, pieces = 0, []
    for part, field in own:
        at = text.index(part, at)
        pieces.append(Piece(at, at + len(part), tag_of(1, field)))
        at += len(part)
    end = (text.rindex(stop), len(text)) if stop else None
    return Turn(1, ((0, len(text)),), end, tuple(pieces), PromptMatch.EXACT)


@pytest.mark.parametrize(
    ("text", "own", "stop", "expected"),
    [
        ("<think>hm</think>a</s>", [("hm", REASONING), ("a", CONTENT)], "</s>", "<think>hm</think>"),
        ("<think>hm</think></s>", [("hm", REASONING)], "</s>", "<think>hm</think>"),
        ("<think>hm", [("hm", REASONING)], "", "<think>hm"),
        ("hm a hm b", [("hm", REASONING), ("a", CONTENT), ("hm", REASONING), ("b", CONTENT)], "", "hm a hm "),
        ("hm {f}", [("hm", REASONING), ("f", CALL)], "", "hm {"),
        ("a</s>", [("a", CONTENT)], "</s>", None),
        ("<think>h\nm</think>\n\na", [("<think>h\nm</think>\n\na", CONTENT)], "", "<think>h\nm</think>\n\n"),
        ("\n<think></think>a", [("<think></think>a", CONTENT)], "", "\n<think></think>"),
        ("<think>a</think>b</think>", [("<think>a</think>b</think>", CONTENT)], "", "<think>a</think>"),
        ("a<think>b</think>", [("a<think>b</think>", CONTENT)], "", None),
        ("<think>a", [("<think>a", CONTENT)], "", None),
        ("", [], "", None),
    ],
)
def test_the_range_of_reasoning(text: str, own: list[tuple[str, int]], stop: str, expected: str | None) -> None:
    found = reasoning_range(text, turn(text, *own, stop=stop))
    assert (found and text[slice(*found)]) == expected
    assert not found or found[0] == 0
