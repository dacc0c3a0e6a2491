"""Data parallelism by torch: one process per device, started by torchrun."""

from __future__ import annotations

from dataclasses import dataclass

from .launcher import TorchLauncher


@dataclass
class Torchrun(TorchLauncher):
    """Starts torchrun, and trains data-parallel."""
