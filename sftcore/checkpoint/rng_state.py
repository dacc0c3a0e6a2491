"""The states of all random number generators of a process, as JSON."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def state() -> dict[str, Any]:
    """Return the states of Python's, numpy's and torch's generators, of the latter also on the GPU of this process."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    version, inner, gauss = random.getstate()
    found = {
        "python": [version, list(inner), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "torch": _text(torch.get_rng_state()),
    }
    if torch.cuda.is_available():
        found["cuda"] = _text(torch.cuda.get_rng_state())
    return found


def restore(found: dict[str, Any]) -> None:
    """Bring all generators to what :func:`state` returned."""
    version, inner, gauss = found["python"]
    random.setstate((version, tuple(inner), gauss))
    kind, keys, *rest = found["numpy"]
    np.random.set_state((kind, np.asarray(keys, np.uint32), *rest))
    torch.set_rng_state(_tensor(found["torch"]))
    if torch.cuda.is_available() and "cuda" in found:
        torch.cuda.set_rng_state(_tensor(found["cuda"]))


@contextmanager
def kept() -> Iterator[None]:
    """Let what happens inside draw as it likes, and be as before afterwards."""
    before = state()
    try:
        yield
    finally:
        restore(before)


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(state.cpu().numpy().tobytes()).decode()


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
