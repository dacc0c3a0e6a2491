"""Accelerators: found where they are installed and know the tokenizer."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pytest

from sftcore.tokenization import accelerator, find_accelerator
from sftcore.tokenization.accelerator import Fastokens

from .kinds import byte_level, unigram


def test_none_where_none_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastokens", None)
    assert find_accelerator(byte_level()) is None


def test_fastokens_where_it_is_installed() -> None:
    pytest.importorskip("fastokens")
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.enable_truncation(2)
    made = find_accelerator(tokenizer)
    assert isinstance(made, Fastokens)
    texts = ["Word the é", "", "🙂<|im_end|>"]
    ids, offsets = made.encode(texts)
    assert (ids.dtype, offsets.dtype) == (np.int32, np.int64)
    right = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert [ids[a:b].tolist() for a, b in pairwise(offsets)] == right
    assert made.encode([])[1].tolist() == [0]


@pytest.mark.parametrize(("times", "kept"), [(1, False), (9, True)])
def test_fastokens_caches_texts_while_enough_are_repeated(
    monkeypatch: pytest.MonkeyPatch, times: int, kept: bool
) -> None:
    pytest.importorskip("fastokens")
    monkeypatch.setattr(accelerator, "TRIAL_BYTES", 10_000)
    tokenizer = byte_level()
    made = Fastokens(tokenizer)
    texts = [f"Word the é {number} {'nine ' * 20}<|im_end|>{number}" for number in range(150)]
    texts = texts[:50] * times + texts[50:]
    for first in range(0, len(texts), 25):
        here = texts[first : first + 25]
        ids, offsets = made.encode(here)
        right = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in here]
        assert [ids[a:b].tolist() for a, b in pairwise(offsets)] == right
    assert (made._tokenizer.segment_cache_stats() is not None) == kept == made._caches


def test_markers_that_are_to_be_split() -> None:
    pytest.importorskip("fastokens")
    tokenizer = byte_level(flags=False)
    tokenizer.split_special_tokens = True
    ids, _ = Fastokens(tokenizer).encode(["a<|im_end|>"])
    assert ids.tolist() == tokenizer("a<|im_end|>", add_special_tokens=False)["input_ids"]
    assert len(ids) > 2


def test_none_for_a_tokenizer_that_it_does_not_know() -> None:
    pytest.importorskip("fastokens")
    with pytest.raises(ValueError, match="unsupported normalizer"):
        Fastokens(unigram())
    assert find_accelerator(unigram()) is None
