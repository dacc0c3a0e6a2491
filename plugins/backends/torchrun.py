"""Data parallelism by torch: one process per device, started by torchrun."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .launcher import TorchLauncher


@dataclass
class Torchrun(TorchLauncher):
    """Starts torchrun, and trains data-parallel."""

    def launched(self, environ: Mapping[str, str]) -> bool:
        started = "RANK" in environ and "WORLD_SIZE" in environ
        return started and ("TORCHELASTIC_RUN_ID" in environ or "CROSS_SIZE" not in environ)
