"""Columns of a source under the names that its format knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sftcore.core.errors import RowError

SHOWN = 20
"""How many columns a message names."""


def rename_columns(row: Mapping[str, Any], names: Mapping[str, str], seen: dict[str, None]) -> Mapping[str, Any]:
    """*row* with its top-level keys under their new *names*, all at once.

    Its columns are added to *seen*, until each that is renamed is among these.

    Raises:
        RowError: two of its columns would have one name.
    """
    if not names:
        return row
    if not names.keys() <= seen.keys():
        seen.update(dict.fromkeys(map(str, row)))
    renamed = {names.get(key, key): value for key, value in row.items()}
    if len(renamed) != len(row):
        twice = next(new for old, new in names.items() if old in row and new in row and new not in names)
        raise RowError(f"'columns' renames a column to '{twice}', and the row has one of that name; rename it too")
    return renamed


def missing_columns(names: Iterable[str], seen: Sequence[str]) -> list[tuple[str, str]]:
    """Those of *names* that no row had, each with the columns that were *seen*; none, if there was no row."""
    shown = ", ".join(seen[:SHOWN]) + (f" and {len(seen) - SHOWN} more" if len(seen) > SHOWN else "")
    return [(name, shown) for name in names if name not in seen and seen]
