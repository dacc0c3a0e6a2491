"""Which rows are evaluated, and that none of them is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sftcore.core.errors import DataError
from sftcore.data.selection.key_hash import Keys, numbers
from sftcore.data.tables.table import Flags


def hold_back(parts: Sequence[Keys], fraction: float, seed: int) -> list[Flags]:
    """Tell for each row of *parts*, the keys of some sources, whether it is held back: about *fraction* of all.

    Rows are chosen by content and *seed*, so that equal ones stay together, wherever they come from.

    Raises:
        DataError: there are too few different rows.
    """
    drawn = [numbers(part, f"evaluation {seed}") for part in parts]
    ordered = np.sort(np.concatenate(drawn))
    if len(ordered) < 2:
        raise DataError(
            f"data.eval: cannot hold back a share of {len(ordered)} row; give more rows, or evaluation sources"
        )
    if ordered[0] == ordered[-1]:
        raise DataError("data.eval: all rows are equal, so no share of them can be held back")
    last = ordered[max(1, round(len(ordered) * fraction)) - 1]
    if last == ordered[-1]:  # something has to be trained
        last = ordered[ordered < last][-1]
    return [part <= last for part in drawn]


def keep_out(parts: Sequence[Keys], evaluated: Sequence[Keys]) -> list[Flags]:
    """Tell for each row of *parts* whether its content is not *evaluated* too."""
    keys: set[Any] = set().union(*(part.tolist() for part in evaluated))
    return [np.fromiter((key not in keys for key in part.tolist()), bool, len(part)) for part in parts]
