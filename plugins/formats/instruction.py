"""``{"instruction": "...", "input": "...", "output": "..."}``: a task, its input, and the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sftcore import Format, Message
from sftcore.rows import read_text, single_turn


@dataclass
class Instruction(Format):
    """One turn: instruction, input (may be empty or missing) and output."""

    answer: ClassVar[str] = "output"

    def parse(self, row: Mapping[str, Any]) -> list[Message]:
        parts = read_text(row, "instruction"), read_text(row, "input") if row.get("input") is not None else ""
        return single_turn("\n".join(part for part in parts if part.strip()), read_text(row, self.answer))
