"""How a launcher's parent and its ranks communicate: by the environment, and by files in a folder named there.

The parent keeps the file ``alive`` locked, and writes ``stop`` to ask the ranks to stop. A rank writes ``exit-RANK``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

from sftcore.runtime.file_io import FileLock, write_atomically
from sftcore.runtime.signal_mask import stop_signals_blocked

STOPPED_EXIT_CODE = 75
"""Exit code of a run that was stopped and can be resumed: EX_TEMPFAIL of sysexits.h, "try again"."""

LAUNCH_FOLDER_VARIABLE = "SFTCORE_LAUNCHER"
"""Environment variable with the path of the folder."""

LAUNCH_ID_VARIABLE = "SFTCORE_LAUNCH"
"""Environment variable with an id of the launch; ranks that are restarted get the same one."""

DEADLINE_VARIABLE = "SFTCORE_DEADLINE"
"""Environment variable with the time, in seconds since 1970, at which ``max_hours`` are over."""

_STOP, _ALIVE, _EXIT = "stop", "alive", "exit-"
_POLL_SECONDS = 0.2


class LaunchedProcess(AbstractContextManager["LaunchedProcess"]):
    """A launcher or a rank that this process started, and can ask to stop.

    If this process ends, for whatever reason, the ranks are asked to stop too. Signals that ask a run to stop do not
    reach the launcher: it would end before its ranks have saved. Nor does it import from the working directory. A
    context manager: leave it only after the process has ended.

    Attributes:
        process: the ``subprocess.Popen`` of it.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str] = os.environ, **options: Any) -> None:
        """Start *command* with *environ*, a variable of ours added, and further *options* of ``subprocess.Popen``.

        Raises:
            OSError: it cannot be started.
        """
        with ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sft-launch-")))
            alive = FileLock(self._folder / _ALIVE)
            alive.acquire()
            stack.callback(alive.release)
            environ = {**environ, LAUNCH_FOLDER_VARIABLE: str(self._folder), "PYTHONSAFEPATH": "1"}
            with stop_signals_blocked():
                self.process = subprocess.Popen(command, env=environ, **options)
            self._open = stack.pop_all()

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def request_stop(self, signal_name: str) -> None:
        """Ask the ranks to stop cleanly, as a signal of that name would, such as ``SIGTERM``."""
        write_atomically(self._folder / _STOP, signal_name)

    def wait(self) -> int:
        """Wait for the process, and return the exit code of the run."""
        launcher = self.process.wait()
        ranks = [int(path.read_text()) for path in self._folder.glob(f"{_EXIT}*[0-9]")]
        if launcher == 0:
            return max(ranks, default=0)
        if 2 in ranks:  # what the user can fix; the launcher ended the other ranks because of it
            return 2
        return 128 - launcher if launcher < 0 else launcher


def report_exit(code: int) -> int:
    """Report to the launcher's parent that this rank ends with *code*; return the exit code for the launcher itself.

    For a launcher, a rank that was asked to stop has succeeded: it must neither restart it nor end the others.
    """
    with suppress(KeyError, OSError):  # no launcher's parent; it is gone
        write_atomically(Path(os.environ[LAUNCH_FOLDER_VARIABLE], f"{_EXIT}{os.environ.get('RANK', '0')}"), str(code))
        return 0 if code == STOPPED_EXIT_CODE else code
    return code


def signal_on_stop_request(folder: Path, finished: threading.Event) -> None:
    """Send this process a signal when the launcher's parent asks it to stop, and when it is gone, until *finished*.

    A parent that is gone after it has asked was itself asked twice.
    """
    if not (folder / _ALIVE).exists():  # the variable is left of another launch
        return
    alive, stop, requests = FileLock(folder / _ALIVE), folder / _STOP, 0
    with suppress(OSError, ValueError):
        while not finished.wait(_POLL_SECONDS):
            released = _is_released(alive)
            if released or (stop.exists() and not requests):
                os.kill(os.getpid(), signal.Signals[stop.read_text() if stop.exists() else "SIGTERM"])
                requests += 1
            if released:
                return


def _is_released(lock: FileLock) -> bool:
    try:
        return lock.acquire(shared=True, blocking=False) and lock.works
    except FileNotFoundError:  # with its folder
        return True
