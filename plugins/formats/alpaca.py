"""``{"instruction": "...", "input": "...", "response": "..."}``: a task, its input, and the response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .instruction import Instruction


@dataclass
class Alpaca(Instruction):
    """One turn: instruction, input (may be empty or missing) and response."""

    answer: ClassVar[str] = "response"
