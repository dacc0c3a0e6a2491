"""Encoders: the ids of transformers, and an accelerator only while it is right."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from sftcore.labelling.spans import Span
from sftcore.runtime.signals import Stopped
from sftcore.tokenization import Encoder, EquivalenceCache, TokenColumns
from sftcore.tokenization.accelerator import Fastokens
from sftcore.tokenization.encoder import VERIFY_EVERY, _running_sums

from .kinds import KINDS, PIECES, byte_level, label_lists

RARE = "the one text that is encoded wrongly"


class Errs:
    """An accelerator that is right but for some texts: of those *change* makes what it returns."""

    name = "errs"
    version = "1"

    def __init__(self, tokenizer: Any, wrong: Callable[[str], bool], change: Callable[[list[int]], list[int]]) -> None:
        self.backend = tokenizer.backend_tokenizer
        self.wrong, self.change = wrong, change
        self.batches: list[list[str]] = []

    def encode(self, texts: list[str]) -> tuple[Any, Any]:
        self.batches.append(texts)
        lists = [each.ids for each in self.backend.encode_batch(texts, add_special_tokens=False)]
        lists = [self.change(ids) if self.wrong(text) else ids for text, ids in zip(texts, lists, strict=True)]
        return np.array([one for ids in lists for one in ids], np.int32), np.cumsum([0, *map(len, lists)])


def backwards(ids: list[int]) -> list[int]:
    """Return other tokens that are as many bytes."""
    return [*reversed(ids)]


class Panic(BaseException):
    """What a panic in Rust is in Python."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_level()


@pytest.fixture(scope="module")
def smollm2_tokenizer(smollm2: Path) -> Any:
    return AutoTokenizer.from_pretrained(smollm2)


def lists(columns: TokenColumns) -> list[list[int]]:
    return [columns.ids[a:b].tolist() for a, b in zip(columns.text_offsets, columns.text_offsets[1:], strict=False)]


def expected(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def some_texts(number: int, seed: int = 0) -> list[str]:
    random_ = random.Random(seed)
    return [f"{n} " + "".join(random_.choices(PIECES, k=12)) for n in range(number)]


def encoder_with(tokenizer: Any, wrong: Callable[[str], bool], change: Any = backwards) -> tuple[Encoder, Errs]:
    made = Errs(tokenizer, wrong, change)
    return Encoder(tokenizer, lambda _: made, verify_after=0), made


def test_an_accelerator_that_is_right_stays(tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    encoder, made = encoder_with(tokenizer, lambda text: False)
    assert encoder.engine == "tokenizers"
    for seed in range(3):
        texts = some_texts(100, seed)
        assert lists(encoder.encode(texts)) == expected(tokenizer, texts)
    assert encoder.engine == "errs"
    assert len(made.batches) == 4  # the check, and three batches
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "what", ["\u3000" * 17, "I'm", "<|both|>", "👩‍👩‍👧‍👦", "1234567", "ﷺ", "assistant", "\x1f", "a" * 3000]
)
def test_one_wrong_probe_is_enough(tokenizer: Any, capsys: pytest.CaptureFixture[str], what: str) -> None:
    encoder, made = encoder_with(tokenizer, lambda text: what in text, lambda ids: ids[1:])
    texts = some_texts(20)
    assert lists(encoder.encode(texts)) == expected(tokenizer, texts)
    assert (encoder.engine, len(made.batches)) == ("tokenizers", 1)
    assert capsys.readouterr().err.count("warning  errs encodes differently: ") == 1
    encoder.encode(texts)
    assert (len(made.batches), capsys.readouterr().err) == (1, "")


def test_every_word_of_the_vocabulary_is_tried(tokenizer: Any) -> None:
    backend = tokenizer.backend_tokenizer
    for number in random.Random(1).sample(range(300, backend.get_vocab_size()), 5):
        word = backend.decode([number], skip_special_tokens=False)
        encoder, _ = encoder_with(tokenizer, lambda text, line=f"\n{word}\n": line in text)  # type: ignore[misc]
        encoder.encode(["a b"])
        assert encoder.engine == "tokenizers"


def test_a_wrong_text_of_the_first_batch(tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    encoder, _ = encoder_with(tokenizer, lambda text: text == RARE)
    texts = [*some_texts(50), RARE]
    assert lists(encoder.encode(texts)) == expected(tokenizer, texts)
    assert encoder.engine == "tokenizers"
    assert repr(RARE) in capsys.readouterr().err


@pytest.mark.parametrize("at", [0, VERIFY_EVERY, 3 * VERIFY_EVERY])
def test_a_wrong_text_among_those_compared(tokenizer: Any, capsys: pytest.CaptureFixture[str], at: int) -> None:
    encoder, made = encoder_with(tokenizer, lambda text: text == RARE)
    first, texts = some_texts(30), some_texts(4 * VERIFY_EVERY, 2)
    assert lists(encoder.encode(first)) == expected(tokenizer, first)
    texts[at + VERIFY_EVERY - 30] = RARE  # positions are counted across batches
    assert lists(encoder.encode(texts)) == expected(tokenizer, texts)
    assert encoder.engine == "tokenizers"
    assert capsys.readouterr().err == (
        f"   warning  errs encodes differently: {RARE!r}; tokenizers encodes from here on\n"
    )
    assert lists(encoder.encode(texts)) == expected(tokenizer, texts)
    assert len(made.batches) == 3


def test_a_wrong_text_that_is_not_encoded_twice_is_not_found(tokenizer: Any) -> None:
    """The limit of the check: a text that is not compared may be wrong."""
    encoder, _ = encoder_with(tokenizer, lambda text: text == RARE)
    encoder.encode(some_texts(30))
    encoder.encode([RARE])
    assert encoder.engine == "errs"


@pytest.mark.parametrize("change", [lambda ids: ids[1:], lambda ids: [*ids, ids[0]], lambda ids: [ids[0]] * 3])
def test_tokens_that_do_not_add_up_are_found_wherever_they_are(tokenizer: Any, change: Any) -> None:
    encoder, _ = encoder_with(tokenizer, lambda text: text == RARE, change)
    encoder.encode(some_texts(30))
    texts = ["a", RARE, "b"]
    assert lists(encoder.encode(texts)) == expected(tokenizer, texts)
    assert encoder.engine == "tokenizers"


def raising(error: BaseException) -> Callable[[Any], Any]:
    def encode(result: Any) -> Any:
        raise error

    return encode


INVALID: dict[str, Callable[[Any], Any]] = {
    "an error": raising(RuntimeError("x")),
    "a panic": raising(Panic("x")),
    "a row too few": lambda result: (result[0], result[1][:-1]),
    "a token too few": lambda result: (result[0][:-1], result[1]),
    "a wrong start": lambda result: (result[0], result[1] + 1),
    "offsets out of order": lambda result: (result[0], np.array([0, *reversed(result[1][1:-1]), result[1][-1]])),
    "other numbers": lambda result: (result[0].astype(np.int64), result[1]),
    "offsets of another dtype": lambda result: (result[0], result[1].astype(np.uint64)),
    "no vector": lambda result: (result[0].reshape(1, -1), result[1]),
    "an id too great": lambda result: (result[0] + 10_000, result[1]),
    "an id below 0": lambda result: (-result[0], result[1]),
}


@pytest.mark.parametrize("trouble", INVALID)
@pytest.mark.parametrize("late", [False, True])
def test_an_accelerator_that_fails_is_dropped(
    tokenizer: Any, capsys: pytest.CaptureFixture[str], trouble: str, late: bool
) -> None:
    class Breaks(Errs):
        def encode(self, texts: list[str]) -> Any:
            result = super().encode(texts)
            return result if late and len(self.batches) < 3 else INVALID[trouble](result)

    made = Breaks(tokenizer, lambda text: False, backwards)
    encoder = Encoder(tokenizer, lambda _: made, verify_after=0)
    for seed in range(3):
        texts = some_texts(10, seed)
        assert lists(encoder.encode(texts)) == expected(tokenizer, texts)
    assert encoder.engine == "tokenizers"
    assert len(made.batches) == (3 if late else 1)
    assert capsys.readouterr().err.count("tokenizers encodes from here on\n") == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stopped])
def test_an_interrupt_is_no_error(tokenizer: Any, error: type[BaseException]) -> None:
    made = Errs(tokenizer, lambda text: True, raising(error()))
    with pytest.raises(error):
        Encoder(tokenizer, lambda _: made, verify_after=0).encode(["a"])


def test_an_accelerator_is_verified_only_after_enough_text(tokenizer: Any) -> None:
    made = Errs(tokenizer, lambda text: False, backwards)
    encoder = Encoder(tokenizer, lambda _: made, verify_after=100)
    encoder.encode(["a" * 60])
    assert (encoder.engine, made.batches) == ("tokenizers", [])
    encoder.encode(["a" * 39])
    assert made.batches == []
    encoder.encode(["a"])
    assert (encoder.engine, len(made.batches)) == ("errs", 2)


@pytest.mark.parametrize("kind", ["metaspace", "word piece", "trimmed", "prefix"])
def test_only_vocabularies_of_bytes_are_accelerated(kind: str) -> None:
    made = KINDS[kind]()
    encoder = Encoder(made, lambda tokenizer: pytest.fail("an accelerator was requested"), verify_after=0)
    assert lists(encoder.encode(["a b"])) == expected(made, ["a b"])


def test_where_many_positions_are_unknown_all_come_from_offsets(tokenizer: Any) -> None:
    encoder, _ = encoder_with(tokenizer, lambda text: False)
    encoder._find = None
    texts = ["a <|both|> b"] * (VERIFY_EVERY + 1)
    assert len(encoder.encode(texts)._encodings) == VERIFY_EVERY + 1
    again = encoder.encode(["a"])
    assert (set(again._encodings), lists(again)) == ({0}, expected(tokenizer, ["a"]))


def test_what_other_calls_leave_on_the_tokenizer_does_not_matter() -> None:
    made = byte_level()
    made.pad_token = "<|im_end|>"
    text = "words and <|im_end|> more words"
    plain = expected(made, [text])
    encoder = Encoder(made)
    made([text, "a"], truncation=True, max_length=2, padding=True)
    made.backend_tokenizer.enable_truncation(2)
    made.backend_tokenizer.enable_padding(length=40)
    made.backend_tokenizer.encode_special_tokens = True
    assert lists(encoder.encode([text])) == plain
    made.split_special_tokens = True
    split = expected(made, [text])
    assert split != plain
    assert lists(Encoder(made).encode([text])) == split


class Own:
    """A fast tokenizer whose class does something of its own."""

    def __init__(self, tokenizer: Any, is_fast: bool) -> None:
        self.tokenizer, self.is_fast = tokenizer, is_fast

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, text: Any, **options: Any) -> Any:
        options.pop("return_offsets_mapping", None) if not self.is_fast else None
        given = text.lower() if isinstance(text, str) else [each.lower() for each in text]
        return self.tokenizer(given, **options)


@pytest.mark.parametrize("is_fast", [False, True])
def test_a_class_of_its_own_is_asked_itself(tokenizer: Any, is_fast: bool) -> None:
    own = Own(tokenizer, is_fast)
    encoder = Encoder(own, lambda tokenizer: pytest.fail("an accelerator was requested"), verify_after=0)
    assert encoder.engine == "transformers"
    columns = encoder.encode(["Word WORD", "", "a"])
    assert lists(columns) == expected(own, ["Word WORD", "", "a"])
    after, until = columns.tokens_around(np.array([0, 2]), np.array([4, 0]))
    first = len(expected(own, ["word"])[0])
    assert (after.tolist(), until.tolist()) == (
        ([first, len(columns.ids) - 1],) * 2 if is_fast else ([-1, -1], [-1, -1])
    )


def test_a_slow_tokenizer_rejects_a_boundary_within_a_token(tokenizer: Any) -> None:
    own = Own(tokenizer, is_fast=False)
    columns = Encoder(own).encode(["a the", "a the", "a the"])
    spans = [[Span(1, 5, 1)], [Span(3, 5, 1)], []]
    assert [len(each) for each in lists(columns)] == [2, 2, 2]
    found = label_lists(own, columns, spans, set())
    assert list(found.rejected) == [1]
    assert str(found.rejected[1]).startswith("a token crosses the boundary")
    assert found.labels.tolist() == [-100, columns.ids[1], -100, -100, -100, -100]


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_a_lone_surrogate_is_an_error_and_the_others_are_encoded(kind: str) -> None:
    made = KINDS[kind]()
    columns = Encoder(made).encode(["é", "a\ud83d", "b"])
    assert lists(columns) == [*expected(made, ["é"]), [], *expected(made, ["b"])]
    assert {row: str(error) for row, error in columns.errors.items()} == {
        1: "the text has the lone surrogate '\\ud83d', which is not a character"
    }
    found = label_lists(made, columns, [[Span(0, 1, 1)], [Span(0, 2, 1)], []], set())
    assert len(found.labels) == len(columns.ids)


def test_no_texts(tokenizer: Any) -> None:
    for encoder in (Encoder(tokenizer), Encoder(Own(tokenizer, False)), encoder_with(tokenizer, bool)[0]):
        columns = encoder.encode([])
        assert (columns.ids.tolist(), columns.text_offsets.tolist()) == ([], [0])
        found = label_lists(tokenizer, columns, [], set())
        assert (found.labels.tolist(), found.weights, found.rejected) == ([], None, {})
        assert label_lists(tokenizer, encoder.encode([""]), [[Span(0, 0, 1)]], set()).labels.tolist() == []


def real_texts(tokenizer: Any, rows: Path) -> list[str]:
    conversations = [json.loads(line)["messages"] for line in rows.read_text().splitlines()]
    texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in conversations]
    return texts + some_texts(300)


@pytest.mark.parametrize("kind", ["smollm2", "bytes", "NFC", "not all bytes"])
def test_fastokens_gives_the_same(
    kind: str, smollm2_tokenizer: Any, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fastokens")
    made = smollm2_tokenizer if kind == "smollm2" else KINDS[kind]()
    texts = real_texts(smollm2_tokenizer, rows)
    spans = [[Span(len(text) // 3, len(text), 1), Span(len(text), len(text), 2)] for text in texts]
    fast, plain = Encoder(made, verify_after=0), Encoder(made, lambda _: None)
    for _ in range(2):
        columns, others = fast.encode(texts), plain.encode(texts)
        assert np.array_equal(columns.ids, others.ids)
        assert np.array_equal(columns.text_offsets, others.text_offsets)
        found, right = (label_lists(made, each, spans, set()) for each in (columns, others))
        assert np.array_equal(found.labels, right.labels)
        assert found.weights is not None
        assert right.weights is not None
        assert np.array_equal(found.weights, right.weights)
    assert lists(columns) == expected(made, texts)
    assert (fast.engine, plain.engine) == ("fastokens", "tokenizers")
    assert capsys.readouterr().err == ""


def test_a_byte_that_the_vocabulary_lacks_is_left_to_tokenizers(smollm2_tokenizer: Any) -> None:
    pytest.importorskip("fastokens")
    encoder = Encoder(smollm2_tokenizer, verify_after=0)
    texts = ["\x04", "a", "", "\x04b\x04", "c d", "é\x04", "\x04"]
    with pytest.raises(ValueError, match="byte 0x04 has no token"):
        Fastokens(smollm2_tokenizer).encode(texts)
    assert lists(encoder.encode(texts)) == expected(smollm2_tokenizer, texts)
    assert encoder.engine == "fastokens"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_fastokens_works_in_a_forked_process(smollm2_tokenizer: Any) -> None:
    pytest.importorskip("fastokens")
    encoder = Encoder(smollm2_tokenizer, verify_after=0)
    texts = some_texts(500) * 10
    right = lists(encoder.encode(texts))
    assert encoder.engine == "fastokens"
    child = os.fork()
    if not child:
        os._exit(0 if lists(encoder.encode(texts)) == right else 1)
    assert os.waitpid(child, 0) == (child, 0)


def test_an_accelerator_verified_before_is_ready_at_once(tokenizer: Any, tmp_path: Path) -> None:
    def made(characters: int) -> tuple[Encoder, Errs]:
        accelerator = Errs(tokenizer, lambda text: False, backwards)
        encoder = Encoder(tokenizer, lambda _: accelerator, verify_after=100, cache=EquivalenceCache(folder=tmp_path))
        encoder.load(characters)
        return encoder, accelerator

    encoder, accelerator = made(100)
    assert (encoder.engine, accelerator.batches) == ("tokenizers", [])  # it is not verified yet
    encoder.encode(["a b " * 25])
    assert (encoder.engine, len(list(tmp_path.iterdir()))) == ("errs", 1)
    encoder, accelerator = made(100)
    assert encoder.engine == "errs"
    texts = some_texts(10)
    assert lists(encoder.encode(texts)) == expected(tokenizer, texts)
    assert accelerator.batches[1:] == [texts]
    assert made(99)[0].engine == "tokenizers"


def test_sums_of_lengths_have_64_bits_where_32_may_not_do() -> None:
    for length in (5, 2**30):
        reach = _running_sums(np.full(3, length, np.int32))
        assert reach.tolist() == [0, length, 2 * length, 3 * length]
        assert reach.dtype == (np.int32 if length == 5 else np.int64)
    assert _running_sums(np.zeros(0, np.int32)).tolist() == [0]
