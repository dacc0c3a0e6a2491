"""The launcher's parent: it hands on signals as requests to stop, and the exit code of the ranks.

It imports nothing heavy, because it stays as long as the run does: ``python -m sftcore.launch COMMAND...``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from sftcore.stopping import ALIVE, ASKED, ENDED, LAUNCHER, SAME, SIGNALS, put


def launch(command: Sequence[str]) -> int:
    """Run *command*, which starts the ranks of a run, and return the exit code of the run."""
    with tempfile.TemporaryDirectory(prefix="sft-launch-") as name, Path(name, ALIVE).open("wb") as alive:
        folder = Path(name)
        _lock(alive)
        if hasattr(signal, "SIGUSR1"):  # schedulers send it to all processes: to the command too, which would die
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        try:
            # of a session of its own: a Ctrl-C is for this process, which asks the ranks to stop in good order
            process = subprocess.Popen(command, env={**os.environ, LAUNCHER: name}, start_new_session=True)
        except OSError as error:
            print(f"sft: error: the launcher cannot be started: {command[0]}: {error}", file=sys.stderr)
            return 2
        asked = 0.0

        def signalled(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            if not asked:
                asked = time.monotonic()
                put(folder, ASKED, signal.Signals(number).name)
            elif time.monotonic() - asked > SAME:
                process.terminate()

        for number in SIGNALS:
            signal.signal(number, signalled)
        code = process.wait()
        return _code(code, [int(path.read_text()) for path in folder.glob(f"{ENDED}*[0-9]")])


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


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
