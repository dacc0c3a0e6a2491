"""Writing checkpoints, and finding the one to go on from, on all ranks together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from sftcore.checkpoint.store import Checkpoint, Checkpoints, examine
from sftcore.core.errors import ConfigError, SftError
from sftcore.distributed.ranks import Ranks
from sftcore.runtime.console import status, utc_now, write_error_reason
from sftcore.runtime.paths import earlier_folder

STATE = "run_state.json"
"""The file in a checkpoint without which a run cannot go on; one that holds only weights has none."""


class Keeper:
    """The checkpoints of a run in *folder*.

    All ranks write into a folder that is none yet; when all are done, those that have a disk to themselves (the first,
    or where disks are not shared the first of each node) seal and rename it; when all of these are done, older ones
    are removed. So at every moment there is one that all can go on from.
    """

    def __init__(self, folder: Path, ranks: Ranks, versions: Mapping[str, str]) -> None:
        self.ranks = ranks
        self._checkpoints = Checkpoints(folder)
        self._versions = versions

    def path(self, step: int) -> Path:
        """Return where the checkpoint of *step* lies."""
        return self._checkpoints.path(step)

    def begin(self, step: int) -> None:
        """Begin a run that goes on from the checkpoint of *step*, or from none if that is negative.

        What an earlier run left half done is removed, and its checkpoints beyond *step* are put aside: the run will not
        come to be what they are.

        Raises:
            SftError: on all ranks, if that is not possible.
        """

        def clear() -> None:
            self._checkpoints.tidy()
            self._checkpoints.put_aside(step, earlier_folder(self._checkpoints.folder))

        self.ranks.together(clear, lambda error: f"the output folder cannot be cleared: {error}")

    def write(self, step: int, fill: Callable[[Path], None], keep: int | None, best: str | None) -> None:
        """Write the checkpoint of *step*.

        Args:
            fill: writes all files into the folder that it is given.
            keep: how many there may be; None for no limit.
            best: path of the one that is kept in any case.

        Raises:
            SftError: on all ranks, if it cannot be written; those that were there before still are.
        """

        def explain(error: Exception) -> str:
            return self._explained(step, error)

        try:
            self._write(step, fill, explain)
            self.ranks.together(lambda: self._checkpoints.rotate(keep, best), explain)
        except SftError:
            if self.ranks.writes:
                self._checkpoints.withdraw(step)
            raise

    def _write(self, step: int, fill: Callable[[Path], None], explain: Callable[[Exception], str]) -> None:
        self.ranks.together(lambda: self._checkpoints.stage(step), explain)
        self.ranks.together(lambda: fill(self._checkpoints.staged(step)), explain, everyone=True)
        size = self.ranks.size
        self.ranks.together(lambda: self._checkpoints.commit(step, size, utc_now(), self._versions), explain)

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole on all disks, or None; say which were passed over, and why."""
        mine = self._checkpoints.steps() if self.ranks.writes else []
        for step in sorted(set().union(*self.ranks.gathered(mine)), reverse=True):
            problem = None
            if self.ranks.writes:
                problem = self._problem(examine(self.path(step)))
            found = self.ranks.gathered(problem)
            problems = [f"(rank {rank}) {told}" if rank else told for rank, told in enumerate(found) if told]
            if not problems:
                return examine(self.path(step), content=False)
            status("resume", f"{self.path(step).name} is passed over: {problems[0]}")
        return None

    def named(self, path: Path) -> Checkpoint:
        """Return the checkpoint at *path*, which the user named.

        Raises:
            ConfigError: it cannot be gone on from.
        """
        problem = self._problem(examine(path)) if self.ranks.writes else None
        if problems := [told for told in self.ranks.gathered(problem) if told]:
            raise ConfigError(f"training_args.resume_from_checkpoint: {path} cannot be gone on from: {problems[0]}")
        return examine(path, content=False)

    def _problem(self, checkpoint: Checkpoint) -> str | None:
        if checkpoint.problem is None and checkpoint.manifest and STATE not in checkpoint.manifest.files:
            return "it holds the weights only (training_args.save_only_model)"
        return checkpoint.problem

    def _explained(self, step: int, error: Exception) -> str:
        folder = self._checkpoints.folder
        whole = next((found.path.name for found in self._checkpoints.found(content=False) if not found.problem), None)
        left = f"the run can go on from {whole} (--resume auto)" if whole else "there is no earlier one"
        return (
            f"the checkpoint of step {step} cannot be written to {folder}: {write_error_reason(folder, error)}; {left}"
        )
