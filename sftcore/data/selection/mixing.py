"""How often each row of a source stands in an epoch: what ``repeat`` and ``share`` come to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sftcore.config.schema import SourceConfig
from sftcore.data.selection.key_hash import Keys, numbers
from sftcore.data.tables.table import Integers


def targets(sizes: Sequence[int], sources: Sequence[SourceConfig]) -> list[int]:
    """Return how many rows each of *sources* shall give to an epoch, of its size in *sizes*.

    Sources without a share give what they have, times ``repeat``. If there are any, those with a share are drawn to
    fit beside them; if every source has a share, an epoch has as many rows as were read.
    """
    shares = sum(source.share or 0.0 for source in sources)
    plain = [size * source.repeat for size, source in zip(sizes, sources, strict=True) if source.share is None]
    whole = sum(plain) / (1 - shares) if sum(plain) else sum(sizes) / (shares or 1.0)
    wanted = [
        size * source.repeat if source.share is None else whole * source.share
        for size, source in zip(sizes, sources, strict=True)
    ]
    return [max(1, math.floor(rows + 0.5)) if size else 0 for rows, size in zip(wanted, sizes, strict=True)]


def draw(keys: Keys, target: int, seed: int) -> Integers:
    """Return how often each row stands in an epoch: all the same, or once more, so that they are *target* together.

    Which ones are taken more often, or are left out, is decided by content and *seed*, not by order.
    """
    often, more = divmod(target, len(keys)) if len(keys) else (0, 0)
    times = np.full(len(keys), often)
    if more:
        times[np.argsort(numbers(keys, f"draw {seed}"), kind="stable")[:more]] += 1
    return times
