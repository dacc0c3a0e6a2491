"""Chance that goes by content: a row has the same luck wherever it stands."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from sftcore.data.tables.table import DIGEST

Keys = NDArray[np.void]
"""The keys of rows, ``DIGEST`` bytes each."""


def numbers(keys: Keys, salt: str) -> NDArray[np.uint64]:
    """Return a random number for each of *keys*, the same for equal ones; others for another *salt*."""
    assert keys.dtype.itemsize == DIGEST
    first, second = np.frombuffer(keys.tobytes(), "<u8").reshape(-1, 2).T
    seed = int.from_bytes(hashlib.sha256(salt.encode()).digest()[:8], "little")
    return _mixed(_mixed(first ^ np.uint64(seed)) ^ second)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return *values* with all bits mixed: the finalizer of SplitMix64 (Steele, Lea, Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed
