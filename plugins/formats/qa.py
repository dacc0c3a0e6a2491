"""``{"input": "...", "output": "..."}``: one question, one answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sftcore import Format, Message
from sftcore.rows import SINGLE_TURN_KEYS, read_text, single_turn


@dataclass
class QA(Format):
    """One turn: input and output."""

    reads: ClassVar[Mapping[str, Any]] = {**SINGLE_TURN_KEYS, "input": None, "output": None}

    def parse(self, row: Mapping[str, Any]) -> list[Message]:
        return single_turn(read_text(row, "input"), read_text(row, "output"), row)
