"""Libraries that encode faster than ``tokenizers``, their comparison with it, and the cache of its results."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sftcore.runtime.file_io import write_atomically
from sftcore.runtime.paths import cache_folder
from sftcore.runtime.signals import Stopped

CACHE_BYTES = 1 << 23
"""Bytes of the cache of ``fastokens``: texts between two markers, and their tokens."""

TRIAL_BYTES, MIN_HIT_RATIO = 1 << 20, 1 / 4
"""After this many bytes of new texts the cache is closed, unless repeated texts have at least this share of them."""

Tokens = tuple[NDArray[np.int32], NDArray[np.int64]]
"""The ids of many texts, one after another, and the ``len(texts) + 1`` offsets of the texts in them."""


class Fastokens:
    """The library of this name, byte-pair encoding in Rust: the only accelerator; others need the same members.

    It works in the calling thread, so that processes can be forked after it was used: a forked process would lack its
    threads, and wait for them forever.

    Args:
        tokenizer: a fast tokenizer of transformers.

    Raises:
        ImportError: it is not installed.
        ValueError: it does not support this kind of tokenizer.
    """

    name = "fastokens"

    def __init__(self, tokenizer: Any) -> None:
        os.environ["FASTOKENS_BPE_THREADS"] = "1"  # read once, when the first text is encoded
        import fastokens

        self.version = version("fastokens")
        self._split = bool(tokenizer.split_special_tokens)
        self._tokenizer = fastokens.Tokenizer.from_json_str(tokenizer.backend_tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.enable_segment_cache(CACHE_BYTES)
        self._caches = self._tokenizer.segment_cache_stats() is not None  # not for models that sample their tokens

    def encode(self, texts: list[str]) -> Tokens:
        """The ids of all *texts*, without special tokens around them, and the offsets of the texts."""
        ids, offsets = self._tokenizer.encode_batch_flat(texts, split_special_tokens=self._split)
        if self._caches:
            self._close_useless_cache()
        return np.frombuffer(ids, np.uint32).view(np.int32), np.frombuffer(offsets, np.uint64).astype(np.int64)

    def _close_useless_cache(self) -> None:
        """Close the cache if few texts are repeated, since filling it takes time."""
        stats = self._tokenizer.segment_cache_stats()
        if stats["miss_bytes"] > TRIAL_BYTES and stats["hit_bytes"] < stats["miss_bytes"] * MIN_HIT_RATIO:
            self._tokenizer.enable_segment_cache(0)
            self._caches = False


def find_accelerator(tokenizer: Any) -> Fastokens | None:
    """An accelerator that is installed and supports *tokenizer*."""
    try:
        return Fastokens(tokenizer)
    except Exception:  # each library has its own errors for what it does not support
        return None


class AcceleratorError(Exception):
    """An accelerator failed, or returned other tokens than ``tokenizers``; the message follows its name."""


class CheckedAccelerator:
    """An accelerator whose tokens are compared with those of ``tokenizers``.

    Args:
        backend: returns the ``tokenizers.Tokenizer``.
        max_id: the greatest id of its vocabulary.
    """

    def __init__(self, accelerator: Fastokens, backend: Callable[[], Any], max_id: int) -> None:
        self.name = accelerator.name
        self.versioned_name = f"{accelerator.name} {accelerator.version}"
        self._accelerator, self._backend, self._max_id = accelerator, backend, max_id

    def encode(self, texts: list[str], compared: Sequence[int]) -> Tokens:
        """Encode *texts*, and compare the texts *compared* with ``tokenizers``.

        Raises:
            AcceleratorError: it fails or is wrong.
        """
        try:
            tokens = self._accelerator.encode(texts)
        except (KeyboardInterrupt, SystemExit, GeneratorExit, Stopped):
            raise
        except BaseException as error:  # a panic in Rust is not an Exception
            raise AcceleratorError(f"failed ({type(error).__name__})") from error
        if not self._is_valid(tokens, len(texts)):
            raise AcceleratorError("returned invalid tokens")
        self.compare(texts, tokens, compared)
        return tokens

    def compare(self, texts: list[str], tokens: Tokens, rows: Sequence[int]) -> None:
        """Raise :class:`AcceleratorError` if *tokens* of the texts *rows* differ from those of ``tokenizers``."""
        ids, offsets = tokens
        encodings = self._backend().encode_batch_fast([texts[row] for row in rows], add_special_tokens=False)
        for row, encoding in zip(rows, encodings, strict=True):
            if not np.array_equal(ids[offsets[row] : offsets[row + 1]], encoding.ids):
                text = texts[row]
                raise AcceleratorError(f"encodes differently: {text if len(text) <= 60 else f'{text[:57]}...'!r}")

    def _is_valid(self, tokens: Tokens, texts: int) -> bool:
        ids, offsets = tokens
        return (
            ids.dtype == np.int32
            and offsets.dtype == np.int64
            and (ids.ndim, offsets.shape) == (1, (texts + 1,))
            and (offsets[0], offsets[-1]) == (0, len(ids))
            and bool(np.all(offsets[1:] >= offsets[:-1]))
            and (not len(ids) or bool(ids.min() >= 0 and ids.max() <= self._max_id))
        )


class EquivalenceCache:
    """The results of equivalence checks: a small file for each tokenizer, as the code and the libraries are now.

    Args:
        serialized: returns the ``tokenizer.json`` of a ``tokenizers.Tokenizer``.
        folder: where; by default in the cache.
    """

    def __init__(
        self, serialized: Callable[[Any], str] = lambda backend: str(backend.to_str()), folder: Path | None = None
    ) -> None:
        self._serialized = serialized
        self._folder = folder or cache_folder() / "equivalence"

    def verified(self, backend: Any) -> Collection[str]:
        """Name and version of the accelerators verified for *backend*, a ``tokenizers.Tokenizer``."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return self._path(backend).read_text().splitlines()
        return ()

    def add(self, backend: Any, accelerator: str) -> None:
        """Note that *accelerator* is verified for *backend*; where nothing can be written, nothing happens."""
        path = self._path(backend)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, "\n".join({*self.verified(backend), accelerator}))

    def _path(self, backend: Any) -> Path:
        hashed = hashlib.sha256(self._serialized(backend).encode())
        hashed.update(f"{backend.encode_special_tokens} {version('tokenizers')}".encode())
        for file in sorted(Path(__file__).parent.glob("*.py")):
            hashed.update(file.read_bytes())
        return self._folder / hashed.hexdigest()[:32]


def concatenated(lists: Sequence[Sequence[int]]) -> Tokens:
    """The ids of many texts, from a list for each."""
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    return np.fromiter(chain.from_iterable(lists), np.int32, int(offsets[-1])), offsets
