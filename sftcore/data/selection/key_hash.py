"""Random numbers from the content of rows: the same wherever a row stands."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from sftcore.data.tables.table import DIGEST

RowKeys = NDArray[np.void]
"""The keys of rows, ``DIGEST`` bytes each."""


def uniform(keys: RowKeys, salt: str) -> NDArray[np.uint64]:
    """Uniform random numbers, one for each of *keys*: equal for equal keys, and others for another *salt*."""
    assert keys.dtype.itemsize == DIGEST
    first, second = np.frombuffer(keys.tobytes(), "<u8").reshape(-1, 2).T
    seed = int.from_bytes(hashlib.sha256(salt.encode()).digest()[:8], "little")
    return _mixed(_mixed(first ^ np.uint64(seed)) ^ second)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """*values* with all bits mixed: the finalizer of SplitMix64 (Steele, Lea, Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed
