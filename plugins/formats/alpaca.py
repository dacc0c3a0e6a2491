"""``{"instruction": "...", "input": "...", "response": "..."}``: a task, what it is about, and the response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .instruction import Instruction


@dataclass
class Alpaca(Instruction):
    """One turn: instruction, input (may be empty or absent) and response."""

    needs: ClassVar[frozenset[str]] = frozenset({"instruction", "response"})

    answer: ClassVar[str] = "response"
