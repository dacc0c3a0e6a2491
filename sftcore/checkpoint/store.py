"""The checkpoints of an output folder, as they lie on one disk."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sftcore.checkpoint import manifest
from sftcore.checkpoint.manifest import Manifest

_COMMITTED = re.compile(r"checkpoint-(\d+)$")
_LEFT = re.compile(r"checkpoint-\d+\.(writing|old)$")


@dataclass(frozen=True)
class Checkpoint:
    """A folder that is named as a checkpoint.

    Attributes:
        manifest: None where it cannot be used.
        problem: why it cannot be used, or None.
    """

    path: Path
    step: int
    manifest: Manifest | None
    problem: str | None


class Checkpoints:
    """The checkpoints in *folder*.

    One is written into ``checkpoint-N.writing``, which nobody takes for a checkpoint; its manifest is written last, and
    then it is renamed. So what is named ``checkpoint-N`` and has a manifest is whole, or was damaged afterwards, which
    the digests in the manifest tell.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Return where the checkpoint of *step* lies."""
        return self.folder / f"checkpoint-{step}"

    def steps(self) -> list[int]:
        """Return the steps of all that are named as one, the newest first."""
        return sorted((int(found[1]) for found in map(_COMMITTED.match, self._names()) if found), reverse=True)

    def found(self, content: bool = True) -> Iterator[Checkpoint]:
        """Yield all, the newest first; each is looked at when it is asked for.

        Args:
            content: read all files; without it only their presence and size are looked at.
        """
        for step in self.steps():
            yield examine(self.path(step), content)

    def staged(self, step: int) -> Path:
        """Return where the checkpoint of *step* is written."""
        return self.folder / f"checkpoint-{step}.writing"

    def stage(self, step: int) -> Path:
        """Return the empty folder into which the checkpoint of *step* is written.

        Raises:
            OSError: it cannot be made.
        """
        staged = self.staged(step)
        if staged.exists():
            shutil.rmtree(staged)
        staged.mkdir(parents=True)
        return staged

    def commit(self, step: int, world_size: int, written: str, versions: Mapping[str, str]) -> None:
        """Make a checkpoint of what was written for *step*: from here on it counts, whatever happens.

        Raises:
            OSError: the disk is full, or gone; nothing has changed then.
        """
        staged, path = self.staged(step), self.path(step)
        manifest.seal(staged, step, world_size, written, versions)
        if path.exists():  # of an earlier attempt, which this run began before
            _remove(path)
        staged.rename(path)
        manifest.flush_folder(self.folder)

    def withdraw(self, step: int) -> None:
        """Remove what was written for *step* and is not committed."""
        shutil.rmtree(self.staged(step), ignore_errors=True)

    def rotate(self, keep: int | None, best: str | None = None) -> None:
        """Remove the oldest, so that *keep* are left, among them the one at the path *best*.

        Those that were never committed are no checkpoints, and are neither counted nor removed.
        """
        if keep is None or keep <= 0:
            return
        whole = [checkpoint.path for checkpoint in self.found(content=False) if not checkpoint.problem]
        kept = whole[:keep]
        if best is not None and (named := self.folder / Path(best).name) in whole[keep:]:
            kept = [*whole[: max(keep - 1, 1)], named]
        for path in whole:
            if path not in kept:
                _remove(path)

    def put_aside(self, step: int, aside: Path) -> None:
        """Move all beyond *step* into the folder *aside*.

        Raises:
            OSError: that is not possible.
        """
        for path in [self.path(other) for other in self.steps() if other > step]:
            aside.mkdir(parents=True, exist_ok=True)
            path.rename(aside / path.name)

    def tidy(self) -> None:
        """Remove what was never committed, and what was about to be removed; only for a run that has the folder."""
        for name in self._names():
            if _LEFT.match(name):
                shutil.rmtree(self.folder / name, ignore_errors=True)

    def _names(self) -> list[str]:
        with suppress(FileNotFoundError, NotADirectoryError):
            return sorted(path.name for path in self.folder.iterdir())
        return []


def examine(path: Path, content: bool = True) -> Checkpoint:
    """Return the checkpoint at *path* with what is wrong with it."""
    named = _COMMITTED.match(path.name)
    try:
        found = manifest.read(path)
    except ValueError as error:
        return Checkpoint(path, int(named[1]) if named else 0, None, str(error))
    return Checkpoint(path, found.step, found, manifest.verify(path, found, content))


def _remove(path: Path) -> None:
    """Remove a checkpoint: first its name, so that it is never half there."""
    aside = path.with_name(f"{path.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
