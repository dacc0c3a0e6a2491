"""Which rows are held out for evaluation, and that none of them is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sftcore.core.errors import DataError
from sftcore.data.selection.key_hash import RowKeys, uniform
from sftcore.data.tables.table import Flags


def holdout(sources: Sequence[RowKeys], fraction: float, seed: int) -> list[Flags]:
    """For each row of *sources* whether it is held out: about *fraction* of all.

    Rows are chosen by content and *seed*, so that equal rows stay on one side, wherever they come from.

    Raises:
        DataError: there are too few different rows.
    """
    numbers = [uniform(keys, f"evaluation {seed}") for keys in sources]
    ordered = np.sort(np.concatenate(numbers))
    if len(ordered) < 2:
        raise DataError(
            f"data.eval: cannot hold out a share of {len(ordered)} row; give more rows, or evaluation sources"
        )
    if ordered[0] == ordered[-1]:
        raise DataError("data.eval: all rows are equal, so no share of them can be held out")
    last = ordered[max(1, round(len(ordered) * fraction)) - 1]
    if last == ordered[-1]:  # something has to be trained
        last = ordered[ordered < last][-1]
    return [part <= last for part in numbers]


def exclude(sources: Sequence[RowKeys], evaluated: Sequence[RowKeys]) -> list[Flags]:
    """For each row of *sources* whether its content is not *evaluated* too."""
    excluded: set[Any] = set().union(*(keys.tolist() for keys in evaluated))
    return [np.fromiter((key not in excluded for key in keys.tolist()), bool, len(keys)) for keys in sources]
