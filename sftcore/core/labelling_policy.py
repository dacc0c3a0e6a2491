"""The options that decide which tokens are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sftcore.core.types import Role

TrainOn = Literal["assistant", "last_turn", "all"] | list[Role]
Reasoning = Literal["train", "mask"]
Context = Literal["served", "whole", "strict"]
Unread = Literal["tell", "error", "ignore"]
Truncation = Literal["drop_turns", "drop_row", "split", "truncate_right", "error"]


@dataclass(frozen=True)
class Policy:
    """The options of one data source; docs/config.md explains each."""

    train_on: TrainOn = "assistant"
    train_on_stop: bool = True
    reasoning: Reasoning = "train"
    context: Context = "served"
    truncation: Truncation = "drop_turns"
    max_length: int | None = None
    """Limit of the length of an example, in tokens; None: no limit."""
    weight: float = 1.0
    unread: Unread = "tell"
    plain_text: bool = False
    """Whether rows are texts that are trained whole, without the chat template."""
