"""The texts of the equivalence check: many kinds, the same each time, and not too many."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest

from sftcore.tokenization.equivalence_texts import PAIRS, character_texts, evenly_sampled, hard_texts, vocabulary_texts

from .kinds import KINDS, byte_level


@pytest.fixture(scope="module")
def backend() -> Any:
    return byte_level().backend_tokenizer


def test_every_entry_of_the_vocabulary_is_in_it_alone(backend: Any) -> None:
    texts = vocabulary_texts(backend)
    assert texts == vocabulary_texts(backend)
    lines = "\n".join(texts[: -2 * PAIRS])
    for number in range(backend.get_vocab_size()):
        assert f"\n{backend.decode([number], skip_special_tokens=False)}\n" in f"\n{lines}\n"


def test_markers_stand_beside_text_and_white_space(backend: Any) -> None:
    texts = "".join(hard_texts(backend))
    for token in ("<|im_start|>", "<|both|>", "é9"):
        for written in (f" {token}", f"{token} ", f"a{token}", f"{token}a", f"{token}{token}", f"\n{token}\n\n"):
            assert written in texts
    assert hard_texts(backend) == hard_texts(backend)


@pytest.mark.parametrize("kind", ["bytes", "metaspace", "word piece", "unigram"])
def test_there_are_some_for_every_kind(kind: str) -> None:
    made = KINDS[kind]().backend_tokenizer
    assert len(hard_texts(made)) > 100
    assert len(vocabulary_texts(made)) > 2 * PAIRS


def test_every_category_of_characters_is_in_it() -> None:
    found = {unicodedata.category(character) for character in "".join(character_texts())}
    assert len(found) == 29  # all but lone surrogates, which are not characters
    assert "Cs" not in found


def test_a_sample_is_spread_and_bounded() -> None:
    texts = [str(number) for number in range(10_000)]
    chosen = evenly_sampled(texts, 400_000)
    assert chosen[0] == "0"
    assert int(chosen[-1]) > 9900
    assert 256 <= len(chosen) <= 512
    assert evenly_sampled(texts[:5], 400_000) == texts[:5]
    assert evenly_sampled([], 400_000) == []
    assert [len(text) for text in evenly_sampled(["a" * 300_000] * 4, 400_000)] == [300_000] * 2
    assert len(evenly_sampled(["a" * 10_000_000], 400_000)) == 1
