"""What a person may say about the tokens that are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sftcore.core.types import Role

TrainOn = Literal["assistant", "last_turn", "all"] | list[Role]
Reasoning = Literal["train", "mask"]
Context = Literal["served", "whole", "strict"]
Truncation = Literal["drop_turns", "drop_row", "split", "truncate_right", "error"]


@dataclass(frozen=True)
class Policy:
    """The choices that hold for one source of rows; docs/config.md explains each."""

    train_on: TrainOn = "assistant"
    train_on_stop: bool = True
    reasoning: Reasoning = "train"
    context: Context = "served"
    truncation: Truncation = "drop_turns"
    max_length: int | None = None
    """Longest example, in tokens; None for no limit."""
    weight: float = 1.0
