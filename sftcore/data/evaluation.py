"""Which rows are evaluated, and that none of them is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sftcore.data.conversations import Parsed
from sftcore.errors import DataError

Parts = list[list[Parsed]]
"""The rows of each source."""


def hold_back(parts: Sequence[Sequence[Parsed]], fraction: float, seed: int) -> tuple[Parts, Parts]:
    """Return the rows of *parts* that are left to train, and those that are held back: about *fraction* of all.

    They are chosen by content and *seed*, so that equal rows stay together, wherever they come from.

    Raises:
        DataError: there are too few different rows.
    """
    keys = [[hashlib.sha256(f"{seed} ".encode() + row.key).digest() for row in rows] for rows in parts]
    ordered = sorted(key for part in keys for key in part)
    if len(ordered) < 2:
        raise DataError(
            f"data.eval: cannot hold back a share of {len(ordered)} row; give more rows, or evaluation sources"
        )
    if ordered[0] == ordered[-1]:
        raise DataError("data.eval: all rows are equal, so no share of them can be held back")
    last = ordered[max(1, round(len(ordered) * fraction)) - 1]
    if last == ordered[-1]:  # something has to be trained
        last = max(key for key in ordered if key < last)
    both: tuple[Parts, Parts] = ([], [])
    for rows, part in zip(parts, keys, strict=True):
        both[0].append([row for row, key in zip(rows, part, strict=True) if key > last])
        both[1].append([row for row, key in zip(rows, part, strict=True) if key <= last])
    return both


def keep_out(parts: Sequence[Sequence[Parsed]], evaluated: Sequence[Sequence[Parsed]]) -> Parts:
    """Return the rows of *parts* without those whose content is *evaluated* too."""
    keys = {row.key for rows in evaluated for row in rows}
    return [[row for row in rows if row.key not in keys] for rows in parts]
