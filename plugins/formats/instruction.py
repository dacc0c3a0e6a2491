"""``{"instruction": "...", "input": "...", "output": "..."}``: a task, its input, and the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sftcore import Format, Message
from sftcore.rows import SINGLE_TURN_KEYS, read_text, single_turn

KEYS: Mapping[str, Any] = {**SINGLE_TURN_KEYS, "instruction": None, "input": None, "context": None}
"""Keys of the question."""


@dataclass
class Instruction(Format):
    """One turn: instruction, input or context (may be empty or missing) and output."""

    separator: str = "\n"
    """Text between the instruction and the input."""

    answer: ClassVar[str] = "output"
    reads: ClassVar[Mapping[str, Any]] = {**KEYS, "output": None}

    def parse(self, row: Mapping[str, Any]) -> list[Message]:
        more = [read_text(row, key) for key in ("input", "context") if row.get(key) is not None]
        question = self.separator.join(part for part in (read_text(row, "instruction"), *more) if part.strip())
        return single_turn(question, read_text(row, self.answer), row)
