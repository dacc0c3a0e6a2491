"""``{"conversations": [{"from": "human", "value": "..."}, ...]}``: several turns, as in ShareGPT exports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from .messages import Messages


@dataclass
class ShareGPT(Messages):
    """Several turns: a list of objects with from and value."""

    key: ClassVar[str] = "conversations"
    turn_keys: ClassVar[Sequence[tuple[str, str]]] = (("from", "value"), ("role", "content"))
