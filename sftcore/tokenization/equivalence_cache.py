"""Which accelerators were proven on this machine, and for which tokenizers."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from sftcore.runtime.paths import cache_folder
from sftcore.tokenization.accelerator import Accelerator


class Proof(NamedTuple):
    """The accelerators that are proven for a tokenizer, each with its version."""

    names: Collection[str]

    def holds(self, accelerator: Accelerator) -> bool:
        """Tell whether *accelerator* is among them."""
        return _name(accelerator) in self.names


class Proofs:
    """Keeps proofs as small files: one for each tokenizer, as the code and the libraries are now.

    Args:
        serialized: returns a ``tokenizers.Tokenizer`` as its file has it.
        folder: where; by default in the cache.
    """

    def __init__(
        self, serialized: Callable[[Any], str] = lambda backend: str(backend.to_str()), folder: Path | None = None
    ) -> None:
        self._serialized = serialized
        self._folder = folder or cache_folder() / "proofs"

    def of(self, backend: Any) -> Proof | None:
        """Return what is proven for *backend*, a ``tokenizers.Tokenizer``; None if nothing is."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return Proof(self._path(backend).read_text().splitlines())
        return None

    def add(self, backend: Any, accelerator: Accelerator) -> None:
        """Remember that *accelerator* gives the ids of *backend*; it need not work."""
        path, before = self._path(backend), self.of(backend)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            staged = path.with_suffix(f".{os.getpid()}")
            staged.write_text("\n".join({*(before.names if before else ()), _name(accelerator)}))
            staged.replace(path)

    def _path(self, backend: Any) -> Path:
        hashed = hashlib.sha256(self._serialized(backend).encode())
        hashed.update(f"{backend.encode_special_tokens} {version('tokenizers')}".encode())
        for file in sorted(Path(__file__).parent.glob("*.py")):
            hashed.update(file.read_bytes())
        return self._folder / hashed.hexdigest()[:32]


def _name(accelerator: Accelerator) -> str:
    return f"{accelerator.name} {accelerator.version}"
