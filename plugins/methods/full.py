"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sftcore import Method


@dataclass
class Full(Method):
    """Every weight is trained."""

    def prepare(self, model: Any, args: Any) -> Any:
        return model.requires_grad_(True)
