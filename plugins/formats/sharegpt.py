"""``{"conversations": [{"from": "human", "value": "..."}, ...]}``: several turns, as in ShareGPT exports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .messages import KEYS, Messages


@dataclass
class ShareGPT(Messages):
    """Several turns: a list of objects with from and value."""

    reads: ClassVar[Mapping[str, Any]] = {"conversations": KEYS}
    key: ClassVar[str] = "conversations"
    turn_keys: ClassVar[Sequence[tuple[str, str]]] = (("from", "value"), ("role", "content"))
