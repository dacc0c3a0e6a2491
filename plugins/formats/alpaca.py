"""``{"instruction": "...", "input": "...", "response": "..."}``: a task, its input, and the response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .instruction import KEYS, Instruction


@dataclass
class Alpaca(Instruction):
    """One turn: instruction, input or context (may be empty or missing) and response."""

    answer: ClassVar[str] = "response"
    reads: ClassVar[Mapping[str, Any]] = {**KEYS, "response": None}
