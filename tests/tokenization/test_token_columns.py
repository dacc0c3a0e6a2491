"""TokenColumns: the very ids, labels and weights of one text after another."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sftcore.core.types import IGNORE_INDEX
from sftcore.labelling.spans import Span
from sftcore.labelling.token_labels import label_tokens, tokens_in
from sftcore.tokenization import EncodedText, Encoder, TokenColumns, encode_text

from ..sizes import examples
from .kinds import BY_BYTES, KINDS, PIECES, label_lists, texts


@cache
def made(kind: str) -> tuple[Any, Encoder]:
    tokenizer = KINDS[kind]()
    return tokenizer, Encoder(tokenizer)


@pytest.fixture(scope="module")
def smollm2_encoder(smollm2: Path) -> tuple[Any, Encoder]:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    return tokenizer, Encoder(tokenizer)


def row(columns: TokenColumns, column: Any, number: int) -> list[Any]:
    return list(column[columns.text_offsets[number] : columns.text_offsets[number + 1]].tolist())


@st.composite
def rows(draw: st.DrawFn) -> list[tuple[str, list[Span]]]:
    """Draw texts, each with ranges in order and apart."""
    drawn = []
    for text in draw(st.lists(texts, max_size=6)):
        edges = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
        weights = st.sampled_from([1.0, 1.0, 0.3, 2.0])
        spans = [Span(a, b, draw(weights)) for a, b in zip(edges[::2], edges[1::2], strict=False)]
        drawn.append((text, spans))
    return drawn


def check(tokenizer: Any, encoder: Encoder, drawn: list[tuple[str, list[Span]]]) -> TokenColumns:
    added = frozenset(tokenizer.added_tokens_decoder)
    columns = encoder.encode([text for text, _ in drawn])
    assert (columns.ids.dtype, columns.text_offsets.dtype, len(columns)) == (np.int32, np.int64, len(drawn))
    found = label_lists(tokenizer, columns, [spans for _, spans in drawn], added)
    assert found.labels.dtype == np.int32
    assert len(found.labels) == len(columns.ids)
    assert (found.weights is None) == all(span.weight == 1 for _, spans in drawn for span in spans)
    for number, (text, spans) in enumerate(drawn):
        encoded = encode_text(tokenizer, text)
        assert row(columns, columns.ids, number) == tokenizer(text, add_special_tokens=False)["input_ids"]
        labels, weights = label_tokens(tokenizer, encoded, text, spans, added)
        assert row(columns, found.labels, number) == labels
        if found.weights is None:
            assert weights == [float(label != IGNORE_INDEX) for label in labels]
        else:
            assert row(columns, found.weights, number) == list(weights)
        places = np.arange(len(text) + 1)
        after, until = columns.tokens_around(np.full(len(places), number), places)
        first = columns.text_offsets[number]
        for place in places.tolist():
            assert after[place] - first == bisect_right(encoded.offsets, place, key=lambda offset: offset[1])
            assert until[place] - first == bisect_left(encoded.offsets, place, key=lambda offset: offset[0])
            inside = [first + token for token in tokens_in(encoded.offsets, [(place, len(text))])]
            assert list(range(after[place], until[len(text)])) == inside
    return columns


@pytest.mark.parametrize("kind", KINDS)
@examples(150)
@given(drawn=rows())
def test_columns_are_the_rows(kind: str, drawn: list[tuple[str, list[Span]]]) -> None:
    check(*made(kind), drawn)


@examples(200)
@given(drawn=rows())
def test_columns_are_the_rows_of_a_real_tokenizer(
    smollm2_encoder: tuple[Any, Encoder], drawn: list[tuple[str, list[Span]]]
) -> None:
    check(*smollm2_encoder, drawn)


@pytest.mark.parametrize("kind", KINDS)
def test_long_texts_with_many_spans(kind: str) -> None:
    random_ = random.Random(3)
    drawn = []
    for _ in range(8):
        text = "".join(random_.choices(PIECES, k=120))
        edges = sorted(random_.sample(range(len(text)), k=60))
        spans = [Span(a, b, 1.0) for a, b in zip(edges[::2], edges[1::2], strict=True)]
        drawn.append((text, spans))
    check(*made(kind), drawn)


@pytest.mark.parametrize("kind", KINDS)
def test_places_come_from_the_bytes_where_they_are_known(kind: str) -> None:
    _, encoder = made(kind)
    columns = encoder.encode(["Word the", "你好 <|plain|>🙂", "x <|both|> y", "e\u0301 ", "\x04a", "é"])
    # The marker "é" has the number of the letter that stands for byte 0xE9, so its length is not known.
    from_ranges = {"bytes": {2, 5}, "bytes, no flags": set(), "NFC": {2, 3, 5}, "not all bytes": {2, 4}}
    if kind in BY_BYTES:
        assert set(columns._encodings) == from_ranges[kind]
    else:
        assert {*columns._encodings, *columns.singles} == set(range(6))
    assert bool(columns.singles) == kind.startswith("trimmed")


class Ranges(NamedTuple):
    """As much of an encoding as columns ask for."""

    offsets: list[tuple[int, int]]

    def token_to_chars(self, token: int) -> tuple[int, int]:
        return self.offsets[token]


numbers = st.lists(st.integers(0, 12), min_size=2, max_size=12)


@examples(1000)
@given(numbers, numbers, st.sets(st.integers(0, 3)), numbers)
def test_any_ranges_in_order(starts: list[int], ends: list[int], added: set[int], edges: list[int]) -> None:
    """Tokens may share characters, or lie within others, as some normalizers make them."""
    offsets = [(min(pair), max(pair)) for pair in zip(sorted(starts), sorted(ends), strict=False)]
    ids = [token % 4 for token in range(len(offsets))]
    edges.sort()
    spans = [Span(a, b, 1 + a) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    nothing = np.zeros(0, np.int64)
    columns = TokenColumns(
        ["x" * 12], np.array(ids, np.int32), np.array([0, len(ids)]), {}, {}, {0: Ranges(offsets)}, {}, nothing
    )
    found = label_lists(None, columns, [spans], added)
    labels, weights = label_tokens(None, EncodedText(ids, offsets), "", spans, added)
    assert found.labels.tolist() == labels
    assert found.weights is None or found.weights.tolist() == weights


def test_ranges_of_the_tokens_are_in_order_unless_trimmed() -> None:
    random_ = random.Random(4)
    some = ["".join(random_.choices(PIECES, k=20)) for _ in range(300)]
    for kind in KINDS:
        ordered = True
        for encoding in made(kind)[0].backend_tokenizer.encode_batch(some, add_special_tokens=False):
            offsets = encoding.offsets
            ordered &= all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(offsets))
            assert [encoding.token_to_chars(token) for token in range(len(offsets))] == offsets
        assert ordered or kind.startswith("trimmed")
