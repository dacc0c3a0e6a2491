"""Writing checkpoints on all ranks, and finding the one to resume from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from sftcore.checkpoint.store import Checkpoint, CheckpointStore
from sftcore.core.errors import ConfigError, SftError
from sftcore.distributed.ranks import Ranks
from sftcore.runtime.console import status, utc_now, write_error_reason

RUN_STATE = "run_state.json"
"""The state of the run as a whole; a checkpoint of weights only has none, and cannot be resumed from."""


class CheckpointWriter:
    """The checkpoints of a run in *folder*. All ranks have to make the same calls.

    All ranks write into a staging folder. When all are done, the writers (rank 0, or the first rank of each node where
    disks are not shared) commit it; when all of these are done, they remove older checkpoints. So at every moment there
    is a checkpoint that all ranks can resume from.
    """

    def __init__(self, folder: Path, ranks: Ranks, versions: Mapping[str, str]) -> None:
        self.ranks, self.store = ranks, CheckpointStore(folder)
        self._versions = versions

    def start_from(self, step: int) -> None:
        """Prepare the folder for a run that resumes from the checkpoint of *step*, or starts from scratch (-1).

        Incomplete checkpoints are removed, and later ones moved to ``earlier/``: this run may never reach their state.

        Raises:
            SftError: on all ranks, if that fails on any.
        """

        def clear() -> None:
            self.store.remove_leftovers()
            self.store.move_later(step)

        self.ranks.run_on_writers(clear, lambda error: f"the output folder cannot be cleared: {error}")

    def write(self, step: int, write_files: Callable[[Path], None], limit: int | None, best: str | None) -> None:
        """Write the checkpoint of *step*.

        Args:
            write_files: writes the files of this rank into the given folder.
            limit: how many checkpoints remain; None for all.
            best: path of the best checkpoint, which always remains.

        Raises:
            SftError: on all ranks, if it cannot be written; earlier checkpoints are unchanged.
        """
        staged, describe = self.store.staging_path(step), partial(self._describe_failure, step)
        try:
            self.ranks.run_on_writers(lambda: self.store.create_staging(step), describe)
            self.ranks.run_on_all(lambda: write_files(staged), describe)
            self.ranks.run_on_writers(
                lambda: self.store.commit(step, self.ranks.size, utc_now(), self._versions), describe
            )
            self.ranks.run_on_writers(lambda: self.store.rotate(limit, best), describe)
        except SftError:
            if self.ranks.is_writer:
                shutil.rmtree(staged, ignore_errors=True)
            raise

    def newest_complete(self) -> Checkpoint | None:
        """The newest checkpoint that is complete on all disks, or None; skipped ones are reported."""
        steps = self.store.steps() if self.ranks.is_writer else []
        for path in map(self.store.path, sorted(set().union(*self.ranks.gather(steps)), reverse=True)):
            problem = self._problem(path)
            if problem is None:
                return Checkpoint.from_folder(path, read_content=False)
            status("resume", f"{path.name} is skipped: {problem}")
        return None

    def checkpoint_at(self, path: Path) -> Checkpoint:
        """The checkpoint at *path*.

        Raises:
            ConfigError: it is not complete on all disks.
        """
        if problem := self._problem(path):
            raise ConfigError(f"training_args.resume_from_checkpoint: {path} cannot be resumed from: {problem}")
        return Checkpoint.from_folder(path, read_content=False)

    def _problem(self, path: Path) -> str | None:
        """Why the checkpoint at *path* cannot be resumed from, on the first disk where it cannot."""
        problem: str | None = None
        if self.ranks.is_writer:
            checkpoint = Checkpoint.from_folder(path)
            problem = checkpoint.problem
            if checkpoint.manifest and not problem and RUN_STATE not in checkpoint.manifest.files:
                problem = "it holds the weights only (training_args.save_only_model)"
        problems = enumerate(self.ranks.gather(problem))
        return next((f"(rank {rank}) {text}" if rank else text for rank, text in problems if text), None)

    def _describe_failure(self, step: int, error: Exception) -> str:
        complete = (each.path.name for each in self.store.checkpoints(read_content=False) if not each.problem)
        newest, folder = next(complete, None), self.store.folder
        reason = write_error_reason(folder, error)
        advice = f"the run can be resumed from {newest} (--resume auto)" if newest else "there is no earlier one"
        return f"the checkpoint of step {step} cannot be written to {folder}: {reason}; {advice}"
