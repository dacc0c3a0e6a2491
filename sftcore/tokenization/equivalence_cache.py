"""Which accelerators were verified on this machine, and for which tokenizers."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sftcore.runtime.file_io import write_atomically
from sftcore.runtime.paths import cache_folder
from sftcore.tokenization.accelerator import Accelerator


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
        """The accelerators verified for *backend*, a ``tokenizers.Tokenizer``, as :func:`versioned_name` has them."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return self._path(backend).read_text().splitlines()
        return ()

    def add(self, backend: Any, accelerator: Accelerator) -> None:
        """Note that *accelerator* is verified for *backend*; where nothing can be written, nothing happens."""
        path = self._path(backend)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, "\n".join({*self.verified(backend), versioned_name(accelerator)}))

    def _path(self, backend: Any) -> Path:
        hashed = hashlib.sha256(self._serialized(backend).encode())
        hashed.update(f"{backend.encode_special_tokens} {version('tokenizers')}".encode())
        for file in sorted(Path(__file__).parent.glob("*.py")):
            hashed.update(file.read_bytes())
        return self._folder / hashed.hexdigest()[:32]


def versioned_name(accelerator: Accelerator) -> str:
    """Name and version of an accelerator."""
    return f"{accelerator.name} {accelerator.version}"
