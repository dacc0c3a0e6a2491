"""``{"x": "...", "y": "...", "z": ["..."]}``: a question, an answer, and tags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sftcore import Format, Message, RowError
from sftcore.rows import json_type


@dataclass
class XYZ(Format):
    """One turn: x and y, with tags in z."""

    needs: ClassVar[frozenset[str]] = frozenset({"x", "y", "z"})

    tag: str | None = None
    """What every row must be tagged with."""

    def parse(self, row: Mapping[str, Any]) -> list[Message]:
        """Return the question and the answer."""
        for key in ("x", "y"):
            if not isinstance(row.get(key), str):
                raise RowError(f"'{key}' must be a string, not {json_type(row.get(key))}")
        if self.tag is not None and self.tag not in row.get("z", ()):
            raise RowError(f"the row is not tagged '{self.tag}'")
        return [Message("user", row["x"]), Message("assistant", row["y"])]
