"""One text, as the tokenizer itself encodes it; its labels are tested in tests/labelling/test_token_labels.py."""

from __future__ import annotations

import pytest

from sftcore import RowError
from sftcore.tokenization import EncodedText, count_prefix_tokens, encode_text
from sftcore.tokenization.token_columns import to_utf8

from .kinds import byte_level


def test_a_text_has_ids_and_ranges_of_characters() -> None:
    tokenizer = byte_level()
    encoded = encode_text(tokenizer, "Word 🙂")
    assert encoded == EncodedText(tokenizer("Word 🙂")["input_ids"], [(0, 4), (4, 5), (5, 6)])
    assert encode_text(tokenizer, "") == EncodedText([], [])


def test_a_lone_surrogate_is_no_text() -> None:
    assert to_utf8("é") == b"\xc3\xa9"
    with pytest.raises(RowError, match="lone surrogate"):
        encode_text(byte_level(), "\ud83d")


def test_the_tokens_of_a_prefix() -> None:
    tokenizer = byte_level()
    ids = encode_text(tokenizer, "Word the").ids
    assert [count_prefix_tokens(tokenizer, ids, "Word the"[:end]) for end in (0, 4, 8)] == [0, 1, 2]
    with pytest.raises(RowError, match="a token crosses the boundary"):
        count_prefix_tokens(tokenizer, ids, "Word t")
