"""The checkpoints of an output folder on one disk."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sftcore.checkpoint.manifest import Manifest, find_damage, read_manifest, write_manifest
from sftcore.runtime.file_io import fsync_folder
from sftcore.runtime.paths import move_to_earlier

_CHECKPOINT = re.compile(r"checkpoint-(\d+)$")
_LEFTOVER = re.compile(r"checkpoint-\d+\.(writing|old)$")


@dataclass(frozen=True)
class Checkpoint:
    """A folder named as a checkpoint.

    Attributes:
        manifest: None if it cannot be read.
        problem: why the checkpoint cannot be used; None if it is complete.
    """

    path: Path
    step: int
    manifest: Manifest | None
    problem: str | None

    @classmethod
    def from_folder(cls, path: Path, read_content: bool = True) -> Checkpoint:
        """The checkpoint at *path*, compared with its manifest.

        Args:
            read_content: compare the SHA-256 of each file, and not only its size.
        """
        name = _CHECKPOINT.match(path.name)
        try:
            manifest = read_manifest(path)
        except ValueError as error:
            return cls(path, int(name[1]) if name else 0, None, str(error))
        if name and int(name[1]) != manifest.step:
            return cls(path, int(name[1]), manifest, f"its manifest is of step {manifest.step}: it was renamed")
        return cls(path, manifest.step, manifest, find_damage(path, manifest, read_content))


class CheckpointStore:
    """The checkpoints in *folder*.

    A checkpoint is written into ``checkpoint-N.writing``; its manifest is written last, and then it is renamed. So a
    folder ``checkpoint-N`` with a manifest was complete once, and the SHA-256 in the manifest show later damage.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Path of the checkpoint of *step*."""
        return self.folder / f"checkpoint-{step}"

    def steps(self) -> list[int]:
        """The steps of all folders named as a checkpoint, newest first."""
        matches = map(_CHECKPOINT.match, self._names())
        return sorted((int(match[1]) for match in matches if match), reverse=True)

    def checkpoints(self, read_content: bool = True) -> Iterator[Checkpoint]:
        """Yield all checkpoints, newest first, each as :meth:`Checkpoint.from_folder` has it when it is requested."""
        for step in self.steps():
            yield Checkpoint.from_folder(self.path(step), read_content)

    def staging_path(self, step: int) -> Path:
        """Path of the folder into which the checkpoint of *step* is written."""
        return self.folder / f"checkpoint-{step}.writing"

    def create_staging(self, step: int) -> Path:
        """Create the empty folder into which the checkpoint of *step* is written; its path.

        Raises:
            OSError: it cannot be created.
        """
        staged = self.staging_path(step)
        if staged.exists():
            shutil.rmtree(staged)
        staged.mkdir(parents=True)
        return staged

    def commit(self, step: int, world_size: int, written: str, versions: Mapping[str, str]) -> None:
        """Make a checkpoint of the files written for *step*: manifest first, then the rename.

        Raises:
            OSError: a file cannot be written; the earlier checkpoints are unchanged.
        """
        staged, path = self.staging_path(step), self.path(step)
        write_manifest(staged, step, world_size, written, versions)
        if path.exists():  # from an earlier attempt at this step
            _remove(path)
        staged.rename(path)
        fsync_folder(self.folder)

    def rotate(self, limit: int | None, best: str | None = None) -> None:
        """Remove the oldest complete checkpoints, so that *limit* remain, among them the one at the path *best*."""
        if limit is None or limit <= 0:
            return
        complete = [checkpoint.path for checkpoint in self.checkpoints(read_content=False) if not checkpoint.problem]
        remaining = complete[:limit]
        if best is not None and (best_path := self.folder / Path(best).name) in complete[limit:]:
            remaining = [*complete[: max(limit - 1, 1)], best_path]
        for path in complete:
            if path not in remaining:
                _remove(path)

    def move_later(self, step: int) -> None:
        """Move all checkpoints after *step* to ``earlier/``.

        Raises:
            OSError: one cannot be moved.
        """
        move_to_earlier(self.folder, [self.path(other) for other in self.steps() if other > step])

    def remove_leftovers(self) -> None:
        """Remove folders that were never committed or only half removed; for the run that holds the folder."""
        for name in self._names():
            if _LEFTOVER.match(name):
                shutil.rmtree(self.folder / name, ignore_errors=True)

    def _names(self) -> list[str]:
        with suppress(FileNotFoundError, NotADirectoryError):
            return sorted(path.name for path in self.folder.iterdir())
        return []


def _remove(path: Path) -> None:
    """Remove a checkpoint; it is renamed first, so that there is never half a checkpoint."""
    renamed = path.with_name(f"{path.name}.old")
    shutil.rmtree(renamed, ignore_errors=True)
    path.rename(renamed)
    shutil.rmtree(renamed, ignore_errors=True)
