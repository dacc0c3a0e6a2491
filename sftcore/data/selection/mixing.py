"""How often each row of a source is in an epoch, from ``repeat`` and ``share``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sftcore.config.schema import SourceConfig
from sftcore.data.selection.key_hash import RowKeys, uniform
from sftcore.data.tables.table import Integers


def target_rows(sizes: Sequence[int], sources: Sequence[SourceConfig]) -> list[int]:
    """The number of rows that each of *sources*, of these *sizes*, gives to an epoch.

    Sources without a share give what they have, times ``repeat``. Those with a share are sampled to fit beside them; if
    every source has a share, an epoch has as many rows as were read.
    """
    shares = sum(source.share or 0.0 for source in sources)
    plain = [size * source.repeat for size, source in zip(sizes, sources, strict=True) if source.share is None]
    total = sum(plain) / (1 - shares) if sum(plain) else sum(sizes) / (shares or 1.0)
    wanted = [
        size * source.repeat if source.share is None else total * source.share
        for size, source in zip(sizes, sources, strict=True)
    ]
    return [max(1, math.floor(rows + 0.5)) if size else 0 for rows, size in zip(wanted, sizes, strict=True)]


def sample_times(keys: RowKeys, target: int, seed: int) -> Integers:
    """How often each row is in an epoch: all equally often, or once more, so that the sum is *target*.

    Which rows are taken more often, or not at all, follows from content and *seed*, not from the order.
    """
    often, more = divmod(target, len(keys)) if len(keys) else (0, 0)
    times = np.full(len(keys), often)
    if more:
        times[np.argsort(uniform(keys, f"draw {seed}"), kind="stable")[:more]] += 1
    return times
