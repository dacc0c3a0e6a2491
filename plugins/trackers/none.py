"""No tracking; metrics.jsonl is always written."""

from __future__ import annotations

from dataclasses import dataclass

from sftcore import Tracker


@dataclass
class NoTracker(Tracker):
    """No tracker."""
