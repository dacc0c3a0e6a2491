"""Columns of a source under the names that its format knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sftcore.core.errors import RowError

SHOWN = 20
"""How many columns a message names."""


class ColumnRenamer:
    """Renames top-level keys of rows, all at once; *names* has the new name of each column."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._unseen = set(names)
        self._seen: dict[str, None] = {}

    @property
    def seen(self) -> list[str]:
        """The columns that rows had, until each that is renamed was among them."""
        return list(map(str, self._seen))

    def rename(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """*row* under the new names.

        Raises:
            RowError: two of its columns would have one name.
        """
        if not self._names:
            return row
        if self._unseen:
            self._seen.update(dict.fromkeys(row))
            self._unseen -= self._seen.keys()
        names = self._names
        renamed = {names.get(key, key): value for key, value in row.items()}
        if len(renamed) != len(row):
            twice = next(new for old, new in names.items() if old in row and new in row and new not in names)
            raise RowError(f"'columns' renames a column to '{twice}', and the row has one of that name; rename it too")
        return renamed

    def rename_any(self, row: object) -> object:
        """*row* under the new names; unchanged if it is not a mapping or cannot have them."""
        try:
            return self.rename(row) if isinstance(row, Mapping) else row
        except RowError:
            return row


def missing_columns(names: Iterable[str], seen: Sequence[str]) -> list[tuple[str, str]]:
    """Those of *names* that no row had, each with the columns that were *seen*; none, if there was no row."""
    shown = ", ".join(seen[:SHOWN]) + (f" and {len(seen) - SHOWN} more" if len(seen) > SHOWN else "")
    return [(name, shown) for name in names if name not in seen and seen]
