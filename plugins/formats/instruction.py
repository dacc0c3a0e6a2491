"""``{"instruction": "...", "input": "...", "output": "..."}``: a task, what it is about, and the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sftcore import Format, Message

from ._fields import single_turn, text


@dataclass
class Instruction(Format):
    """One turn: instruction, input (may be empty or absent) and output."""

    needs: ClassVar[frozenset[str]] = frozenset({"instruction", "output"})

    answer: ClassVar[str] = "output"

    def parse(self, row: Mapping[str, Any]) -> list[Message]:
        task, about = text(row, "instruction"), text(row, "input") if row.get("input") is not None else ""
        return single_turn("\n".join(part for part in (task, about) if part.strip()), text(row, self.answer))
