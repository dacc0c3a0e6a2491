"""``{"x": "...", "y": "...", "z": ["..."]}``: a question, an answer, and tags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sftcore import Format, Message, RowError
from sftcore.rows import read_text


@dataclass
class XYZ(Format):
    """One turn: x and y, with tags in z."""

    tag: str | None = None
    """What every row must be tagged with."""

    def parse(self, row: Mapping[str, Any]) -> list[Message]:
        """Return the question and the answer."""
        if self.tag is not None and self.tag not in row.get("z", ()):
            raise RowError(f"the row is not tagged '{self.tag}'")
        return [Message("user", read_text(row, "x")), Message("assistant", read_text(row, "y"))]
