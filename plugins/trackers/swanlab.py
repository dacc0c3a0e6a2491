"""SwanLab."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sftcore import Tracker


@dataclass
class SwanLab(Tracker):
    """Sends metrics to SwanLab, or stores them for `swanlab sync`."""

    requires: ClassVar[tuple[str, ...]] = ("swanlab",)

    project: str = "sftcore"
    """Project the run belongs to."""
    workspace: str | None = None
    """User or team; default: that of the login."""
    run_name: str | None = None
    """Name of the run; default: training_args.run_name, or the name of the output folder."""
    description: str | None = None
    """Description of the run."""
    mode: Literal["online", "local", "offline", "disabled"] | None = None
    """Default: SWANLAB_MODE, or online."""

    def start(self, run: Mapping[str, Any]) -> None:
        import swanlab

        self._run = swanlab.init(
            project=self.project,
            workspace=self.workspace,
            id=run["id"],
            resume="allow",
            name=self.run_name or run["name"],
            description=self.description,
            mode=self.mode,
            log_dir=f"{run['output_dir']}/swanlab",
            config={**run["config"], "versions": run["versions"]},
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self, error: BaseException | None = None) -> None:
        import swanlab

        if error is None:
            swanlab.finish()
        else:
            swanlab.finish(state="crashed", error=f"{type(error).__name__}: {error}")
