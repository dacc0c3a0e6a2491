"""TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sftcore import Tracker


@dataclass
class TensorBoard(Tracker):
    """Writes event files for `tensorboard --logdir`."""

    requires: ClassVar[tuple[str, ...]] = ("tensorboard",)

    log_dir: str | None = None
    """Where to write; by default the folder tensorboard in the output folder."""

    def start(self, run: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(self.log_dir or f"{run['output_dir']}/tensorboard")
        config = json.dumps({**run["config"], "versions": run["versions"]}, indent=2, ensure_ascii=False, default=str)
        self._writer.add_text("config", f"```json\n{config}\n```")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, error: BaseException | None = None) -> None:
        self._writer.add_text("end", "finished" if error is None else f"{type(error).__name__}: {error}")
        self._writer.close()
