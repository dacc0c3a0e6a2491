"""How many bytes of a text each token of a byte-level vocabulary stands for."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_SPLITTERS = {"ByteLevel", "Split", "Digits", "Punctuation", "UnicodeScripts"}
"""Pre-tokenizers that split a text without adding or replacing characters."""

_NOT_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}


class ByteLengths(NamedTuple):
    """The fewest bytes that each token stands for, by its id.

    No token covers fewer bytes of a text than ``table`` says: those that may stand for anything have 0. So where the
    lengths of all tokens of a text add up to its bytes, each is exact, and where they do not, some are unknown.

    Attributes:
        table: int32, one length for each id.
        missing: the bytes that the vocabulary lacks; ``tokenizers`` skips them.
        nfc: whether the tokenizer normalizes a text to NFC first. Then the lengths apply only to texts in that form.
    """

    table: NDArray[np.int32]
    missing: bytes
    nfc: bool

    def covers(self, text: str) -> bool:
        """Whether every byte of *text* can be in a token."""
        return not self.missing or len(data := text.encode()) == len(data.translate(None, self.missing))

    def apply_to(self, text: str) -> bool:
        """Whether the tokenizer takes *text* as it is."""
        return not self.nfc or text.isascii() or unicodedata.is_normalized("NFC", text)


def byte_lengths(backend: Any) -> ByteLengths | None:
    """The lengths of the tokens of *backend*, a ``tokenizers.Tokenizer``; None if they cannot be known.

    They are known for byte-level BPE, unless a space may be put before the text, or a step changes the text otherwise
    than to NFC.
    """
    from tokenizers import models, pre_tokenizers

    model = backend.model
    if not isinstance(model, models.BPE) or model.byte_fallback:
        return None
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        return None
    try:
        cuts = list(_steps(backend.pre_tokenizer))
        changes = [step["type"] for step in _steps(backend.normalizer)]
    except Exception:  # a step written in Python has no such form
        return None
    kinds = [step["type"] for step in cuts]
    if kinds.count("ByteLevel") != 1 or not set(kinds) <= _SPLITTERS or set(changes) - {"NFC"}:
        return None
    if any(step.get("add_prefix_space") for step in cuts):
        return None
    letters = set(pre_tokenizers.ByteLevel.alphabet())
    words = backend.get_vocab(with_added_tokens=False)
    added = backend.get_added_tokens_decoder()
    table = np.zeros(max([*words.values(), *added, -1]) + 1, dtype=np.int32)
    for word, number in words.items():
        if letters.issuperset(word):
            table[number] = len(word)
    for number, token in added.items():
        length = len(token.content.encode())
        plain = unicodedata.is_normalized("NFC", token.content)
        if not plain or (token.content in words and table[number] != length):
            length = 0  # its id stands for two texts
        table[number] = length
    if model.unk_token in words:
        table[words[model.unk_token]] = 0
    missing = bytes(byte for byte, letter in _letters(letters) if letter not in words and byte not in _NOT_IN_UTF8)
    return ByteLengths(table, missing, bool(changes))


def trims_offsets(backend: Any) -> bool:
    """Whether *backend* trims spaces from the offsets of its tokens, which then need not be in order."""
    try:
        return any(step.get("trim_offsets") for step in _steps(backend.post_processor))
    except Exception:
        return True


def _letters(alphabet: Collection[str]) -> Iterator[tuple[int, str]]:
    """Yield each byte with its letter in a byte-level vocabulary: itself if visible, else one from U+0100 on."""
    visible = {ord(letter) for letter in alphabet if ord(letter) < 256}
    yield from ((byte, chr(byte)) for byte in visible)
    hidden = sorted(letter for letter in alphabet if ord(letter) >= 256)
    yield from zip((byte for byte in range(256) if byte not in visible), hidden, strict=True)


def _steps(component: Any) -> Iterator[dict[str, Any]]:
    """Yield the steps of a *component* of a tokenizer, as ``tokenizer.json`` has them."""
    if component is not None:
        yield from _flat(json.loads(component.__getstate__()))


def _flat(step: dict[str, Any]) -> Iterator[dict[str, Any]]:
    parts = [part for value in step.values() if isinstance(value, list) for part in value if isinstance(part, dict)]
    if step["type"] == "Sequence":
        for part in parts:
            yield from _flat(part)
    else:
        yield step
