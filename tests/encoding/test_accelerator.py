"""Accelerators: found where they are installed and know the tokenizer."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pytest

from sftcore.encoding import find_accelerator
from sftcore.encoding.accelerator import Fastokens

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
    ids, borders = made.encode(texts)
    assert (ids.dtype, borders.dtype) == (np.int32, np.int64)
    right = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert [ids[a:b].tolist() for a, b in pairwise(borders)] == right
    assert made.encode([])[1].tolist() == [0]


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
