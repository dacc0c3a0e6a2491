"""Lengths of tokens in bytes: never more than a token covers, and known where nothing else happens to the text."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from sftcore.tokenization.byte_lengths import byte_lengths, trims_offsets

from .kinds import BY_BYTES, KINDS, byte_level


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_are_known_of_byte_level_vocabularies(kind: str) -> None:
    backend = KINDS[kind]().backend_tokenizer
    assert (byte_lengths(backend) is not None) == (kind in {*BY_BYTES, "trimmed"})
    assert trims_offsets(backend) == kind.startswith("trimmed")


def test_each_token_is_as_long_as_its_text() -> None:
    tokenizer = byte_level()
    lengths = byte_lengths(tokenizer.backend_tokenizer)
    assert lengths is not None
    assert (lengths.missing, lengths.nfc) == (b"", False)
    assert len(lengths.table) == len(tokenizer)
    unsure = [number for number, length in enumerate(lengths.table) if length == 0]
    assert unsure == [tokenizer.convert_tokens_to_ids("é")]  # a marker, and the letter of byte 0xE9
    for text in ["Word the", "你好 🙂", "<|plain|><|im_end|>", "각\x00\r\n\u3000", "ﬁe\u0301"]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert sum(lengths.table[ids]) == len(text.encode())


def with_model(**options: Any) -> Tokenizer:
    words = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE({**words, "<unk>": 256}, [], **options))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return backend


def test_the_unknown_token_may_be_any_bytes() -> None:
    for backend, length in [(with_model(), 5), (with_model(unk_token="<unk>"), 0)]:
        lengths = byte_lengths(backend)
        assert lengths is not None
        assert lengths.table[256] == length
        assert set(lengths.table[:256]) == {1}


@pytest.mark.parametrize(
    "options", [{"byte_fallback": True}, {"continuing_subword_prefix": "##"}, {"end_of_word_suffix": "</w>"}]
)
def test_a_model_that_spells_otherwise_has_none(options: dict[str, Any]) -> None:
    assert byte_lengths(with_model(**options)) is None


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)


@pytest.mark.parametrize(
    ("step", "known"),
    [
        (None, False),
        (pre_tokenizers.ByteLevel(add_prefix_space=True), False),
        (pre_tokenizers.Sequence([BYTES, BYTES]), False),
        (pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), BYTES]), False),
        (pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), BYTES, pre_tokenizers.Digits()]), True),
        (pre_tokenizers.Sequence([pre_tokenizers.Sequence([pre_tokenizers.Split("a", "removed")]), BYTES]), True),
    ],
)
def test_steps_before_the_model(step: Any, known: bool) -> None:
    backend = with_model()
    backend.pre_tokenizer = step
    assert (byte_lengths(backend) is not None) == known


@pytest.mark.parametrize(
    ("step", "known", "nfc"),
    [
        (normalizers.Sequence([]), True, False),
        (normalizers.NFC(), True, True),
        (normalizers.Sequence([normalizers.NFC()]), True, True),
        (normalizers.NFD(), False, False),
        (normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]), False, False),
    ],
)
def test_changes_to_the_text(step: Any, known: bool, nfc: bool) -> None:
    backend = with_model()
    backend.normalizer = step
    lengths = byte_lengths(backend)
    assert (lengths is not None) == known
    if lengths:
        assert lengths.nfc == nfc
        assert lengths.apply_to("é")
        assert lengths.apply_to("e\u0301") != nfc


def test_bytes_that_no_token_has() -> None:
    words = {letter: number for number, letter in enumerate("abÃ©")}  # bytes 0x61, 0x62, 0xC3, 0xA9
    backend = Tokenizer(models.BPE(words, []))
    backend.pre_tokenizer = BYTES
    lengths = byte_lengths(backend)
    assert lengths is not None
    for text in ["ab", "é", "aéb", ""]:
        assert lengths.covers(text)
        assert sum(lengths.table[backend.encode(text).ids]) == len(text.encode())
    for text in ["c", "a b", "\x04", "\x7f", "è", "Ã", "🙂"]:
        assert not lengths.covers(text)
        assert sum(lengths.table[backend.encode(text).ids]) < len(text.encode())


def test_steps_written_in_python_are_not_known() -> None:
    class Own:
        def pre_tokenize(self, text: Any) -> None: ...

    backend = with_model()
    backend.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Own())
    assert byte_lengths(backend) is None


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (None, False),
        (processors.ByteLevel(trim_offsets=False), False),
        (processors.TemplateProcessing("$A", None, []), False),
        (processors.Sequence([processors.TemplateProcessing("$A", None, []), processors.ByteLevel()]), True),
        (processors.RobertaProcessing(("a", 1), ("b", 0)), True),
    ],
)
def test_which_tokenizers_trim_offsets(step: Any, expected: bool) -> None:
    backend = with_model()
    if step:
        backend.post_processor = step
    assert trims_offsets(backend) == expected
