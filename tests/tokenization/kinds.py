"""Tokenizers of many kinds, made on the spot, and texts in which they differ."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from sftcore.core.errors import RowError
from sftcore.core.types import IGNORE_INDEX
from sftcore.labelling.spans import Span, SpanColumns
from sftcore.labelling.token_labels import label_columns
from sftcore.tokenization import TokenColumns

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIECES = [
    *("a", "b", "xyz", "Word", " the", " ", "  ", "\n", "\n\n", "\t", "'s", "1", "23", ".", "\r\n", "\u00a0", "\u3000"),
    *("é", "e\u0301", "\u0323", "ﬁ", "\u0958", "你好", "각", "\u1100\u1161", "🙂", "👩‍👩‍👧", "\x04", "\x00", "\ufffd"),
    *("<|im_start|>", "<|im_end|>", "<|plain|>", "<|left|>", "<|right|>", "<|both|>", "é9", "assistant\n"),
]
TRAINING = ["".join(PIECES[first:] + PIECES[:first]) for first in range(len(PIECES))] * 3

texts = st.lists(
    st.one_of(st.sampled_from(PIECES), st.text(st.characters(codec="utf-8"), max_size=3)), max_size=14
).map("".join)


def byte_level(
    normalizer: Any = None, prefix: bool = False, post: Any = None, alphabet: bool = True, flags: bool = True
) -> Any:
    """Return byte-level BPE; *flags*: with added tokens that take the white space beside them, and other odd ones."""
    backend = Tokenizer(models.BPE())
    if normalizer:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet() if alphabet else []
    backend.train_from_iterator(
        [text.replace("\x04", "") for text in TRAINING],
        trainers.BpeTrainer(vocab_size=600, initial_alphabet=letters, show_progress=False),
    )
    if post:
        backend.post_processor = post
    return with_markers(backend, flags)


def with_markers(backend: Tokenizer, flags: bool = True) -> Any:
    backend.add_special_tokens([AddedToken("<|im_start|>"), AddedToken("<|im_end|>", normalized=False)])
    backend.add_tokens([AddedToken("<|plain|>")])
    if flags:
        backend.add_tokens(
            [
                AddedToken("<|left|>", lstrip=True),
                AddedToken("<|right|>", rstrip=True, normalized=False),
                AddedToken("<|both|>", lstrip=True, rstrip=True),
                AddedToken("é9", normalized=True),
                AddedToken("é"),
            ]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def metaspace() -> Any:
    """Return BPE with a visible blank and bytes for what the vocabulary lacks, as Llama-2's."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    specials = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(
        TRAINING, trainers.BpeTrainer(vocab_size=500, special_tokens=specials, limit_alphabet=20, show_progress=False)
    )
    return with_markers(backend)


def word_piece() -> Any:
    """Return WordPiece as BERT's, which drops, folds and takes apart characters."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False)
    backend.train_from_iterator(TRAINING, trainer)
    return with_markers(backend)


def unigram() -> Any:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    backend.train_from_iterator(TRAINING, trainer)
    return with_markers(backend)


trimming = processors.ByteLevel(trim_offsets=True)

KINDS: dict[str, Callable[[], Any]] = {
    "bytes": byte_level,
    "bytes, no flags": lambda: byte_level(flags=False),
    "NFC": lambda: byte_level(normalizers.NFC()),
    "not all bytes": lambda: byte_level(alphabet=False),
    "NFKC": lambda: byte_level(normalizers.NFKC()),
    "prefix": lambda: byte_level(prefix=True),
    "trimmed": lambda: byte_level(post=trimming),
    "trimmed prefix": lambda: byte_level(prefix=True, post=trimming),
    "metaspace": metaspace,
    "word piece": word_piece,
    "unigram": unigram,
}
BY_BYTES = {"bytes", "bytes, no flags", "NFC", "not all bytes"}
"""Those whose tokens have lengths in bytes."""


class Labels(NamedTuple):
    """Labels of the tokens of many texts, as numbers."""

    labels: Any
    weights: Any
    rejected: dict[int, RowError]


def label_lists(
    tokenizer: Any, columns: TokenColumns, spans: Sequence[Sequence[Span]], added: Collection[int]
) -> Labels:
    """Return the labels of the tokens of many texts, of the spans of each."""
    flat = [(text, *span) for text, row in enumerate(spans) for span in row]
    owners, starts, ends, weights = np.array(flat, np.float64).reshape(-1, 4).T
    texts, begins, stops = (numbers.astype(np.int64) for numbers in (owners, starts, ends))
    found = label_columns(tokenizer, columns, SpanColumns(texts, begins, stops, weights), added)
    labels = np.where(found.trained, columns.ids, np.int32(IGNORE_INDEX))
    return Labels(labels, found.weights, found.rejected)
