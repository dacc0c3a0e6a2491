"""A launcher, or a rank, that this process started: it is asked to stop through a folder, and tells its code there."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

from sftcore.runtime.files import write_atomically
from sftcore.runtime.signals import ALIVE, ASKED, ENDED, LAUNCHER


class Launched:
    """A process that starts ranks, or is one, and the folder through which it is asked to stop.

    If this process ends, however it does, the ranks are asked to stop too. A context manager: leave it only after the
    process has ended.

    Attributes:
        process: the process.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str] = os.environ, **options: Any) -> None:
        """Start *command*.

        Args:
            environ: its environment; how it finds the folder is added.
            options: more for ``subprocess.Popen``.

        Raises:
            OSError: it cannot be started.
        """
        with ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sft-launch-")))
            _lock(stack.enter_context((self._folder / ALIVE).open("wb")))
            self.process = subprocess.Popen(command, env={**environ, LAUNCHER: str(self._folder)}, **options)
            self._open = stack.pop_all()

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, *raised: object) -> None:
        self._open.close()

    def ask(self, why: str) -> None:
        """Ask the ranks to stop in good order, as the signal of the name *why* would: `SIGTERM`."""
        write_atomically(self._folder / ASKED, why)

    def wait(self) -> int:
        """Wait for the process, and return the exit code of the run."""
        code = self.process.wait()
        return _code(code, [int(path.read_text()) for path in self._folder.glob(f"{ENDED}*[0-9]")])


def _lock(file: BinaryIO) -> None:
    """Lock *file* until this process has ended, however it ends."""
    with suppress(ImportError):  # Windows has no such locks
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def _code(launcher: int, ranks: Sequence[int]) -> int:
    """Return the code of a run from that of its launcher and those of its ranks."""
    if launcher == 0:
        return max(ranks, default=0)
    if 2 in ranks:  # what the user can mend; the other ranks were ended because of it
        return 2
    return 128 - launcher if launcher < 0 else launcher
