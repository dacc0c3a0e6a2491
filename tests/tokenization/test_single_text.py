"""One text, as the tokenizer itself encodes it. What labelling makes of it is in supervision/test_tokens.py."""

from __future__ import annotations

import pytest

from sftcore import RowError
from sftcore.tokenization import Encoded, encode, tokens_of_prefix
from sftcore.tokenization.single_text import utf8

from .kinds import byte_level


def test_a_text_has_ids_and_ranges_of_characters() -> None:
    tokenizer = byte_level()
    encoded = encode(tokenizer, "Word 🙂")
    assert encoded == Encoded(tokenizer("Word 🙂")["input_ids"], [(0, 4), (4, 5), (5, 6)])
    assert encode(tokenizer, "") == Encoded([], [])


def test_half_a_character_is_none() -> None:
    assert utf8("é") == b"\xc3\xa9"
    with pytest.raises(RowError, match="half of a surrogate pair"):
        encode(byte_level(), "\ud83d")


def test_the_tokens_of_a_prefix() -> None:
    tokenizer = byte_level()
    ids = encode(tokenizer, "Word the").ids
    assert [tokens_of_prefix(tokenizer, ids, "Word the"[:end]) for end in (0, 4, 8)] == [0, 1, 2]
    with pytest.raises(RowError, match="a token crosses the border"):
        tokens_of_prefix(tokenizer, ids, "Word t")
