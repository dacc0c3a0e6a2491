"""Many texts to tokens, by the fastest tokenizer that is verified to give the same."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sftcore.core.errors import RowError
from sftcore.runtime.console import warn
from sftcore.tokenization.accelerator import (
    AcceleratorError,
    CheckedAccelerator,
    EquivalenceCache,
    Fastokens,
    Tokens,
    concatenated,
    find_accelerator,
)
from sftcore.tokenization.byte_lengths import byte_lengths, trims_offsets
from sftcore.tokenization.equivalence_texts import character_texts, evenly_sampled, hard_texts, vocabulary_texts
from sftcore.tokenization.token_columns import EncodedText, TokenColumns, TokenEnds, encode_text, to_utf8

VERIFY_AFTER = 5_000_000
"""Characters to encode before an accelerator is tried: the equivalence check takes about as long as these."""

CACHED_VERIFY_AFTER = 1 / 20
"""The share of them after which an accelerator is tried that was verified on this machine before."""

SAMPLE_CHARACTERS = 400_000
"""About how many characters of the user's own texts are in an equivalence check."""

VERIFY_EVERY = 256
"""Of this many texts one is encoded by ``tokenizers`` too while an accelerator runs."""


class Encoder:
    """Encodes many texts at once, into the ids that ``tokenizer(text, add_special_tokens=False)`` has for each.

    An accelerator is verified before it is used and while it is (see docs/design.md); after a difference ``tokenizers``
    encodes that batch and all others, and a warning says so. A text with a byte that the vocabulary lacks is left to
    ``tokenizers``, and so are vocabularies that are not byte-level: these need it for the positions of their tokens.

    Args:
        tokenizer: a tokenizer of transformers, which is not changed from then on.
        find: returns an accelerator for it, or None.
        verify_after: in place of :data:`VERIFY_AFTER`.
        cache: of equivalence checks.
    """

    def __init__(
        self,
        tokenizer: Any,
        find: Callable[[Any], Fastokens | None] = find_accelerator,
        verify_after: int = VERIFY_AFTER,
        cache: EquivalenceCache | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._find: Callable[[Any], Fastokens | None] | None = find
        self._accelerator: CheckedAccelerator | None = None
        self._verify_after = verify_after
        self._cache = cache
        self._texts = self._characters = 0
        self._direct = bool(getattr(tokenizer, "is_fast", False)) and self._is_plain()
        self._trims = self._direct and trims_offsets(tokenizer.backend_tokenizer)
        self._lengths = byte_lengths(tokenizer.backend_tokenizer) if self._direct and not self._trims else None

    @property
    def engine(self) -> str:
        """The library that encodes now: ``transformers``, ``tokenizers``, or the name of the accelerator."""
        if not self._direct:
            return "transformers"
        return self._accelerator.name if self._accelerator else "tokenizers"

    def encode(self, texts: Sequence[str]) -> TokenColumns:
        """Tokens of *texts* and where they lie; a text with a lone surrogate is among ``errors`` of the result."""
        wide, errors = _not_ascii(texts)
        given = [*texts]
        for row in errors:
            given[row] = ""
        columns = None
        with self._dropping_accelerator():
            if self._is_accelerated(given):
                columns = self._accelerated(given, wide, errors)
        if columns is None:
            columns = self._plain(given, wide, errors)
        self._texts += len(given)
        self._characters += sum(map(len, given))
        return columns

    def load(self, characters: int) -> None:
        """Prepare for this many characters, so that processes forked from this one need not.

        An accelerator that is still to be verified is created, and no more: the check takes texts of the user.
        """
        if self._lengths is None or characters < self._verify_after or not self._find:
            return
        accelerator = self._find(self._tokenizer)
        self._find = lambda _: accelerator
        checked = accelerator and self._checked(accelerator)
        if checked and checked.versioned_name in self._verified():
            self._find, self._accelerator = None, checked
            with self._dropping_accelerator():
                texts = [text for text in ("a", "b") if self._lengths.covers(text)]
                checked.encode(texts, range(len(texts)))  # loads what it needs

    @contextmanager
    def _dropping_accelerator(self) -> Iterator[None]:
        """Continue without the accelerator after its first error."""
        try:
            yield
        except AcceleratorError as error:
            assert self._accelerator
            warn(f"{self._accelerator.name} {error}; tokenizers encodes from here on")
            self._accelerator = None

    def _is_plain(self) -> bool:
        """Whether the class of the tokenizer adds nothing to what ``tokenizers`` does."""
        texts = hard_texts(self._backend())
        ids = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return bool(ids == [encoding.ids for encoding in self._backend().encode_batch(texts, add_special_tokens=False)])

    def _backend(self) -> Any:
        """The ``tokenizers.Tokenizer``, without what other calls left on it."""
        backend = self._tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = self._tokenizer.split_special_tokens
        return backend

    def _checked(self, accelerator: Fastokens) -> CheckedAccelerator:
        assert self._lengths
        return CheckedAccelerator(accelerator, self._backend, len(self._lengths.table) - 1)

    def _verified(self) -> Collection[str]:
        return self._cache.verified(self._backend()) if self._cache else ()

    def _is_accelerated(self, texts: list[str]) -> bool:
        """Whether there is an accelerator for *texts*; it is verified first, if it is time to."""
        if self._lengths is None:
            return False
        if self._find:
            characters = self._characters + sum(map(len, texts))
            cached = self._verified() if characters >= int(self._verify_after * CACHED_VERIFY_AFTER) else ()
            if characters >= self._verify_after or cached:
                accelerator, self._find = self._find(self._tokenizer), None
                if accelerator:
                    self._accelerator = self._checked(accelerator)
                    if self._accelerator.versioned_name not in cached:
                        self._verify(self._accelerator, texts)
        return self._accelerator is not None

    def _verify(self, checked: CheckedAccelerator, texts: list[str]) -> None:
        """Compare the accelerator with ``tokenizers`` on all that may differ, and on some of *texts*."""
        assert self._lengths
        backend = self._backend()
        own = evenly_sampled(texts, SAMPLE_CHARACTERS)
        probes = [*own, *hard_texts(backend), *character_texts(), *vocabulary_texts(backend)]
        probes = [text for text in probes if self._lengths.covers(text)]
        checked.encode(probes, range(len(probes)))
        if self._cache:
            self._cache.add(backend, checked.versioned_name)

    def _accelerated(self, texts: list[str], wide: dict[int, bytes], errors: dict[int, RowError]) -> TokenColumns:
        """The columns that the accelerator gives."""
        assert self._accelerator
        uncovered = self._uncovered(texts, wide)
        given = texts
        if uncovered:
            given = [*texts]
            for row in uncovered:
                given[row] = ""
        tokens = self._accelerator.encode(given, range(-self._texts % VERIFY_EVERY, len(given), VERIFY_EVERY))
        if uncovered:
            tokens = _inserted(tokens, uncovered, self._encodings(texts, uncovered))
        ends, unknown = self._positions(texts, tokens, wide)
        encodings = self._encodings(texts, unknown)
        self._accelerator.compare(texts, tokens, unknown)
        return TokenColumns(texts, *tokens, errors, {}, encodings, wide, ends)

    def _uncovered(self, texts: list[str], wide: dict[int, bytes]) -> list[int]:
        """The texts that have a byte which the vocabulary lacks."""
        assert self._lengths
        narrow = "".join([text for row, text in enumerate(texts) if row not in wide]).encode()
        contents = narrow, b"".join(wide.values())
        if not any(byte in content for content in contents for byte in self._lengths.missing):
            return []
        return [row for row, text in enumerate(texts) if not self._lengths.covers(text)]

    def _plain(self, texts: list[str], wide: dict[int, bytes], errors: dict[int, RowError]) -> TokenColumns:
        """The columns that ``tokenizers`` gives, or transformers where its class does more than that."""
        if not self._direct:
            singles = dict(enumerate(encode_text(self._tokenizer, text) for text in texts))
            return TokenColumns(texts, *concatenated([single.ids for single in singles.values()]), errors, singles)
        if self._lengths is None:
            encodings = dict(enumerate(self._backend().encode_batch(texts, add_special_tokens=False)))
            tokens = concatenated([encoding.ids for encoding in encodings.values()])
            if not self._trims:
                return TokenColumns(texts, *tokens, errors, {}, encodings)
            singles = {row: EncodedText(one.ids, one.offsets) for row, one in encodings.items()}
            return TokenColumns(texts, *tokens, errors, singles)
        fast = self._backend().encode_batch_fast(texts, add_special_tokens=False)
        tokens = concatenated([encoding.ids for encoding in fast])
        ends, unknown = self._positions(texts, tokens, wide)
        if len(unknown) > max(len(texts) // 3, VERIFY_EVERY):  # to encode these twice costs more than all offsets
            self._lengths = None
        return TokenColumns(texts, *tokens, errors, {}, self._encodings(texts, unknown), wide, ends)

    def _positions(self, texts: list[str], tokens: Tokens, wide: dict[int, bytes]) -> tuple[TokenEnds, list[int]]:
        """Where each token ends, in bytes over all texts, and the texts for which that is unknown."""
        assert self._lengths
        ids, offsets = tokens
        lengths = self._lengths.table.take(ids)  # half as long as by index
        ends = _running_sums(lengths)
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        sizes[list(wide)] = [*map(len, wide.values())]
        sizes[[row for row in wide if not self._lengths.apply_to(texts[row])] if self._lengths.nfc else []] = -1
        unknown: list[int] = np.flatnonzero(np.diff(ends[offsets]) != sizes).tolist()
        if unknown:
            for row in unknown:
                lengths[offsets[row] : offsets[row + 1]] = 0
            ends = _running_sums(lengths)
        return ends[1:], unknown

    def _encodings(self, texts: list[str], rows: list[int]) -> dict[int, Any]:
        encodings = self._backend().encode_batch([texts[row] for row in rows], add_special_tokens=False)
        return dict(zip(rows, encodings, strict=True))


def _not_ascii(texts: Sequence[str]) -> tuple[dict[int, bytes], dict[int, RowError]]:
    """The bytes of the texts that are not ASCII, and errors for those that have a lone surrogate."""
    wide: dict[int, bytes] = {}
    errors: dict[int, RowError] = {}
    for row, text in enumerate(texts):
        if not text.isascii():
            try:
                wide[row] = to_utf8(text)
            except RowError as error:
                errors[row] = error
    return wide, errors


def _running_sums(lengths: NDArray[np.int32]) -> TokenEnds:
    """0, and the sum of *lengths* up to each."""
    small = len(lengths) * int(lengths.max(initial=0)) <= np.iinfo(np.int32).max
    sums: TokenEnds = np.empty(len(lengths) + 1, np.int32) if small else np.empty(len(lengths) + 1, np.int64)
    sums[0] = 0
    np.cumsum(lengths, out=sums[1:])
    return sums


def _inserted(tokens: Tokens, rows: Sequence[int], encodings: Mapping[int, Any]) -> Tokens:
    """*tokens*, with those of *encodings* for the texts *rows*, which are empty so far."""
    ids, offsets = tokens
    sizes = np.diff(offsets)
    lists = [encodings[row].ids for row in rows]
    sizes[list(rows)] = [*map(len, lists)]
    positions = np.repeat(offsets[list(rows)], [*map(len, lists)])
    return np.insert(ids, positions, [*chain.from_iterable(lists)]), np.concatenate([[0], np.cumsum(sizes)])
