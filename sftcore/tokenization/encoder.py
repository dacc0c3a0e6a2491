"""Many texts to tokens, by the fastest tokenizer that is proven to give the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sftcore.core.errors import RowError
from sftcore.runtime.console import warn
from sftcore.runtime.signals import Stopped
from sftcore.tokenization.accelerator import Accelerator, find_accelerator
from sftcore.tokenization.byte_lengths import byte_lengths, trims
from sftcore.tokenization.equivalence_cache import Proof, Proofs
from sftcore.tokenization.equivalence_texts import characters, sample, situations, vocabulary
from sftcore.tokenization.single_text import Encoded, encode, utf8
from sftcore.tokenization.token_columns import Columns, Integers, Sums

WORTH = 5_000_000
"""How many characters are encoded before an accelerator is tried: the proof takes about as long as these."""

EARLIER = 20
"""So many times earlier is an accelerator tried that was proven for this tokenizer before, on this machine."""

OWN = 400_000
"""How many characters of the user's own texts are in a proof, about."""

SHARE = 256
"""Of so many texts one is encoded twice while an accelerator runs."""

Tokens = tuple[NDArray[np.int32], Integers]


class Encoder:
    """Encodes many texts at once, into the ids that ``tokenizer(text, add_special_tokens=False)`` has for each.

    An accelerator is used from the batch on with which :data:`WORTH` characters are reached, if it gives the ids of
    ``tokenizers`` for every entry of the vocabulary, for texts of many kinds, and for a sample of that batch. While
    it runs, every :data:`SHARE`-th text is encoded by ``tokenizers`` too, and so is every text that its tokens do
    not add up to. After one that differs, ``tokenizers`` encodes that batch and all others, and one line says so.
    A text with a byte that the vocabulary lacks is left to ``tokenizers``.

    Only byte-level vocabularies are accelerated: others need ``tokenizers`` for the places of their tokens.

    Args:
        tokenizer: a tokenizer of transformers, which is not changed from then on.
        find: returns an accelerator for it, or None.
        worth: in place of :data:`WORTH`.
        proofs: remembers what was proven; then an accelerator is used as soon as a twentieth of that is reached.
    """

    def __init__(
        self,
        tokenizer: Any,
        find: Callable[[Any], Accelerator | None] = find_accelerator,
        worth: int = WORTH,
        proofs: Proofs | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._find: Callable[[Any], Accelerator | None] | None = find
        self._accelerator: Accelerator | None = None
        self._worth = worth
        self._proofs = proofs
        self._texts = 0
        self._characters = 0
        self._direct = bool(getattr(tokenizer, "is_fast", False)) and self._is_plain()
        trimmed = self._direct and trims(tokenizer.backend_tokenizer)
        self._trims = trimmed
        self._lengths = byte_lengths(tokenizer.backend_tokenizer) if self._direct and not trimmed else None

    @property
    def engine(self) -> str:
        """Who encodes now: ``transformers``, ``tokenizers``, or the name of the accelerator."""
        if not self._direct:
            return "transformers"
        return self._accelerator.name if self._accelerator else "tokenizers"

    def encode(self, texts: Sequence[str]) -> Columns:
        """Return the tokens of *texts*, and where they lie.

        A text with half of a surrogate pair is among ``refused`` of the result.
        """
        wide, refused = _wide(texts)
        given = [*texts]
        for row in refused:
            given[row] = ""
        columns = self._accelerated(given, wide, refused) if self._ready(given) else None
        if columns is None:
            columns = self._plain(given, wide, refused)
        self._texts += len(given)
        self._characters += sum(map(len, given))
        return columns

    def load(self, characters: int) -> None:
        """Get ready for so many characters, so that processes that are forked from this one need not.

        An accelerator that is still to be proven is made, and no more: the proof takes texts of the user.
        """
        if self._lengths is not None and characters >= self._worth and self._find:
            made, self._find = self._find(self._tokenizer), lambda _: made
            if made and (proof := self._proven()) and proof.holds(made):
                self._accelerator, self._find = made, None
                self._try([text for text in ("a", "b") if self._lengths.cover(text)], share=1)  # loads what it needs

    def _is_plain(self) -> bool:
        """Tell whether the class of the tokenizer does nothing of its own beside ``tokenizers``."""
        texts = situations(self._backend())
        ids = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return bool(ids == [encoding.ids for encoding in self._backend().encode_batch(texts, add_special_tokens=False)])

    def _backend(self) -> Any:
        """Return the ``tokenizers.Tokenizer``, without what other calls left on it."""
        backend = self._tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = self._tokenizer.split_special_tokens
        return backend

    def _ready(self, texts: list[str]) -> bool:
        """Tell whether an accelerator is at hand, and prove it if it is time to."""
        if self._lengths is None:
            return False
        if self._find:
            characters = self._characters + sum(map(len, texts))
            proof = self._proven() if characters >= self._worth // EARLIER else None
            if characters >= self._worth or proof:
                find, self._find = self._find, None
                self._accelerator = find(self._tokenizer)
                if self._accelerator and not (proof and proof.holds(self._accelerator)):
                    self._prove(self._backend(), texts)
        return self._accelerator is not None

    def _proven(self) -> Proof | None:
        return self._proofs.of(self._backend()) if self._proofs else None

    def _prove(self, backend: Any, texts: list[str]) -> None:
        """Compare what the accelerator gives for all that may differ, and for some of *texts*."""
        assert self._lengths
        probes = [*sample(texts, OWN), *situations(backend), *characters(), *vocabulary(backend)]
        self._try([text for text in probes if self._lengths.cover(text)], share=1)
        if self._accelerator and self._proofs:
            self._proofs.add(backend, self._accelerator)

    def _try(self, texts: list[str], share: int) -> Tokens | None:
        """Return what the accelerator gives; None if it has to be left.

        Args:
            share: of so many texts one is compared with what ``tokenizers`` gives.
        """
        assert self._accelerator
        try:
            tokens = self._accelerator.encode(texts)
        except (KeyboardInterrupt, SystemExit, GeneratorExit, Stopped):
            raise
        except BaseException as error:  # a panic in Rust is no Exception
            self._leave(f"failed ({type(error).__name__})")
            return None
        if not self._is_sound(tokens, len(texts)):
            self._leave("gave no valid tokens")
            return None
        chosen = range(-self._texts % share, len(texts), share)
        return tokens if self._confirm(texts, tokens, chosen) else None

    def _is_sound(self, tokens: Tokens, texts: int) -> bool:
        """Tell whether *tokens* are what the tokens of so many *texts* may be."""
        assert self._lengths
        ids, rows = tokens
        return (
            ids.dtype == np.int32
            and rows.dtype == np.int64
            and (ids.ndim, rows.shape) == (1, (texts + 1,))
            and (rows[0], rows[-1]) == (0, len(ids))
            and bool(np.all(rows[1:] >= rows[:-1]))
            and (not len(ids) or bool(ids.min() >= 0 and ids.max() < len(self._lengths.table)))
        )

    def _confirm(self, texts: list[str], tokens: Tokens, chosen: Sequence[int]) -> bool:
        """Tell whether *tokens* are right for the *chosen* of *texts*; the accelerator is left if not."""
        ids, rows = tokens
        backend = self._backend()
        right, borders = _ids(backend.encode_batch_fast([texts[row] for row in chosen], add_special_tokens=False))
        for row, first, last in zip(chosen, borders[:-1], borders[1:], strict=True):
            if not np.array_equal(ids[rows[row] : rows[row + 1]], right[first:last]):
                self._leave(f"gave other tokens for {_short(texts[row])}")
                return False
        return True

    def _leave(self, why: str) -> None:
        assert self._accelerator
        warn(f"{self._accelerator.name} {why}; from here on tokenizers encodes")
        self._accelerator = None

    def _accelerated(self, texts: list[str], wide: dict[int, bytes], refused: dict[int, RowError]) -> Columns | None:
        """Return the columns that the accelerator gives; None if it had to be left."""
        assert self._lengths
        left = self._uncovered(texts, wide)
        given = texts
        if left:
            given = [*texts]
            for row in left:
                given[row] = ""
        tokens = self._try(given, SHARE)
        if tokens is None:
            return None
        if left:
            tokens = _filled(tokens, left, self._encodings(texts, left))
        reach, odd = self._placed(texts, tokens, wide)
        encodings = self._encodings(texts, odd)
        if not self._confirm(texts, tokens, odd):
            return None
        return Columns(texts, *tokens, refused, {}, encodings, wide, reach)

    def _uncovered(self, texts: list[str], wide: dict[int, bytes]) -> list[int]:
        """Return the texts that have a byte which the vocabulary lacks."""
        assert self._lengths
        narrow = "".join([text for row, text in enumerate(texts) if row not in wide]).encode()
        every = narrow, b"".join(wide.values())
        if not any(byte in part for part in every for byte in self._lengths.missing):
            return []
        return [row for row, text in enumerate(texts) if not self._lengths.cover(text)]

    def _plain(self, texts: list[str], wide: dict[int, bytes], refused: dict[int, RowError]) -> Columns:
        """Return the columns that ``tokenizers`` gives, or transformers where it does more than that."""
        nowhere = np.zeros(0, np.int64)
        if not self._direct:
            singles = dict(enumerate(encode(self._tokenizer, text) for text in texts))
            lists = [single.ids for single in singles.values()]
            return Columns(texts, *_joined(lists), refused, singles, {}, {}, nowhere)
        if self._lengths is None:
            encodings = self._backend().encode_batch(texts, add_special_tokens=False)
            tokens = _ids(encodings)
            if self._trims:
                singles = {row: Encoded(one.ids, one.offsets) for row, one in enumerate(encodings)}
                return Columns(texts, *tokens, refused, singles, {}, {}, nowhere)
            return Columns(texts, *tokens, refused, {}, dict(enumerate(encodings)), {}, nowhere)
        tokens = _ids(self._backend().encode_batch_fast(texts, add_special_tokens=False))
        reach, odd = self._placed(texts, tokens, wide)
        if len(odd) > max(len(texts) // 3, SHARE):  # encoding these twice costs more than asking for every place
            self._lengths = None
        return Columns(texts, *tokens, refused, {}, self._encodings(texts, odd), wide, reach)

    def _placed(self, texts: list[str], tokens: Tokens, wide: dict[int, bytes]) -> tuple[Sums, list[int]]:
        """Return where each token ends, in bytes over all texts, and the texts of which that is not known."""
        assert self._lengths
        ids, rows = tokens
        lengths = self._lengths.table.take(ids)  # half as long as by index
        reach = _reach(lengths)
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        sizes[list(wide)] = [*map(len, wide.values())]
        sizes[[row for row in wide if not self._lengths.are_of(texts[row])] if self._lengths.nfc else []] = -1
        odd: list[int] = np.flatnonzero(np.diff(reach[rows]) != sizes).tolist()
        if odd:
            for row in odd:
                lengths[rows[row] : rows[row + 1]] = 0
            reach = _reach(lengths)
        return reach[1:], odd

    def _encodings(self, texts: list[str], rows: list[int]) -> dict[int, Any]:
        encodings = self._backend().encode_batch([texts[row] for row in rows], add_special_tokens=False)
        return dict(zip(rows, encodings, strict=True))


def _wide(texts: Sequence[str]) -> tuple[dict[int, bytes], dict[int, RowError]]:
    """Return the bytes of the texts that are not ASCII, and the texts that are none."""
    wide: dict[int, bytes] = {}
    refused: dict[int, RowError] = {}
    for row, text in enumerate(texts):
        if not text.isascii():
            try:
                wide[row] = utf8(text)
            except RowError as error:
                refused[row] = error
    return wide, refused


def _reach(lengths: NDArray[np.int32]) -> Sums:
    """Return the sums of *lengths* up to each, after a 0."""
    small = len(lengths) * int(lengths.max(initial=0)) <= np.iinfo(np.int32).max
    reach: Sums = np.empty(len(lengths) + 1, np.int32 if small else np.int64)
    reach[0] = 0
    np.cumsum(lengths, out=reach[1:])
    return reach


def _ids(encodings: Sequence[Any]) -> Tokens:
    return _joined([encoding.ids for encoding in encodings])


def _joined(lists: Sequence[Sequence[int]]) -> Tokens:
    rows = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    return np.fromiter(chain.from_iterable(lists), np.int32, int(rows[-1])), rows


def _filled(tokens: Tokens, rows: Sequence[int], encodings: Mapping[int, Any]) -> Tokens:
    """Return *tokens* with those of *encodings* in the texts *rows*, which are empty so far."""
    ids, borders = tokens
    sizes = np.diff(borders)
    found = [encodings[row].ids for row in rows]
    sizes[list(rows)] = [len(each) for each in found]
    at = np.repeat(borders[list(rows)], [len(each) for each in found])
    return np.insert(ids, at, [*chain.from_iterable(found)]), np.concatenate([[0], np.cumsum(sizes)])


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
