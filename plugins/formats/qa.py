"""``{"input": "...", "output": "..."}``: one question, one answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sftcore import Format, Message

from ._fields import single_turn, text


@dataclass
class QA(Format):
    """One turn: input and output."""

    needs: ClassVar[frozenset[str]] = frozenset({"input", "output"})

    def matches(self, row: Mapping[str, Any]) -> bool:
        return super().matches(row) and "instruction" not in row

    def parse(self, row: Mapping[str, Any]) -> list[Message]:
        return single_turn(text(row, "input"), text(row, "output"))
