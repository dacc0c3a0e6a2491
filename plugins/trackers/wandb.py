"""Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sftcore import Tracker


@dataclass
class WandB(Tracker):
    """Sends metrics to Weights & Biases, or stores them for `wandb sync`."""

    requires: ClassVar[tuple[str, ...]] = ("wandb",)

    project: str = "sftcore"
    """Project the run belongs to."""
    entity: str | None = None
    """User or team; default: that of the login."""
    run_name: str | None = None
    """Name of the run; default: training_args.run_name, or the name of the output folder."""
    group: str | None = None
    """Group of runs to which it belongs."""
    tags: list[str] | None = None
    """Tags of the run."""
    mode: Literal["online", "offline", "disabled"] | None = None
    """Default: WANDB_MODE, or online."""

    def start(self, run: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            id=run["id"],
            resume="allow",
            name=self.run_name or run["name"],
            group=self.group,
            tags=self.tags,
            mode=self.mode,
            dir=run["output_dir"],
            settings=wandb.Settings(x_stats_pid=run["pid"]),  # the process whose memory and GPU are shown
            config={**run["config"], "versions": run["versions"]},
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self, error: BaseException | None = None) -> None:
        if error is not None:
            self._run.summary["error"] = f"{type(error).__name__}: {error}"
        self._run.finish(exit_code=0 if error is None else 1)
