"""No tracking; metrics.jsonl is written all the same."""

from __future__ import annotations

from dataclasses import dataclass

from sftcore import Tracker


@dataclass
class NoTracker(Tracker):
    """Tracks nothing."""
