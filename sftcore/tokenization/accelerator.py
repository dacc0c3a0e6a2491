"""Libraries that encode faster than ``tokenizers``."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

REMEMBERED = 1 << 23
"""How many bytes ``fastokens`` remembers, of texts between two markers and their tokens: what comes again is there."""

TRIAL, WORTH = 1 << 20, 1 / 4
"""After so many bytes that were new, at least such a part of them must have come again for it to go on."""


class Accelerator(Protocol):
    """Encodes many texts at once.

    It need not be right: whoever uses it compares it with ``tokenizers``, and leaves it at the first error.

    Attributes:
        name: of the library, as messages call it.
        version: of the library; a proof is remembered for one version, and for '' not at all.
    """

    name: str
    version: str

    def encode(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the ids of all *texts*, none added, and the ``len(texts) + 1`` borders between the texts in them."""
        ...


class Fastokens:
    """The library of this name: BPE in Rust, many times as fast.

    It works in the thread that calls it, so that processes can be forked from one that has used it: they would be
    without its threads, and wait for them for ever.

    Args:
        tokenizer: a fast tokenizer of transformers.

    Raises:
        ImportError: it is not installed.
        ValueError: it does not know this kind of tokenizer.
    """

    name = "fastokens"

    def __init__(self, tokenizer: Any) -> None:
        os.environ["FASTOKENS_BPE_THREADS"] = "1"  # read once, when the first text is encoded
        import fastokens

        self.version = version("fastokens")
        self._split = bool(tokenizer.split_special_tokens)
        self._tokenizer = fastokens.Tokenizer.from_json_str(tokenizer.backend_tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.enable_segment_cache(REMEMBERED)
        self._remembers = self._tokenizer.segment_cache_stats() is not None  # some models draw their tokens

    def encode(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the ids of all *texts* and their borders."""
        ids, borders = self._tokenizer.encode_batch_flat(texts, split_special_tokens=self._split)
        if self._remembers:
            self._forget_unless_it_pays()
        return np.frombuffer(ids, np.uint32).view(np.int32), np.frombuffer(borders, np.uint64).astype(np.int64)

    def _forget_unless_it_pays(self) -> None:
        """Remember nothing more if few texts come again, since to remember them takes time too."""
        found = self._tokenizer.segment_cache_stats()
        if found["miss_bytes"] > TRIAL and found["hit_bytes"] < found["miss_bytes"] * WORTH:
            self._tokenizer.enable_segment_cache(0)
            self._remembers = False


def find_accelerator(tokenizer: Any) -> Accelerator | None:
    """Return an accelerator that is installed and takes *tokenizer*; None if there is none."""
    try:
        return Fastokens(tokenizer)
    except Exception:  # each library has errors of its own for what it does not know
        return None
