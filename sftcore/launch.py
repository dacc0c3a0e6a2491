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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from sftcore.stopping import ASKED, EXIT_CODE, LAUNCHER, PARENT, SIGNALS

_SAME = 2.0
"""As in ``sftcore.stopping``."""


def launch(command: Sequence[str]) -> int:
    """Run *command*, which starts the ranks of a run, and return the exit code of the run."""
    with tempfile.TemporaryDirectory(prefix="sft-launch-") as name:
        folder = Path(name)
        (folder / PARENT).write_text(str(os.getpid()))
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
                written = folder / f"{ASKED}.part"
                written.write_text(signal.Signals(number).name)
                written.rename(folder / ASKED)
            elif time.monotonic() - asked > _SAME:
                process.terminate()

        for number in SIGNALS:
            signal.signal(number, signalled)
        code = process.wait()
        return _code(code, [int(path.read_text()) for path in folder.glob("exit-*")])


def told(code: int, environ: Mapping[str, str]) -> int:
    """Tell the launcher's parent that this rank ends with *code*, and return what to tell the launcher itself.

    To a launcher a rank that was asked to stop has done well: it shall neither start it anew nor end the others.
    """
    if LAUNCHER not in environ:
        return code
    with suppress(OSError):
        path = Path(environ[LAUNCHER], f"exit-{environ.get('RANK', '0')}")
        path.write_text(str(code))
        return 0 if code == EXIT_CODE else code
    return code


def _code(launcher: int, ranks: Sequence[int]) -> int:
    """Return the code of a run from that of its launcher and those of its ranks."""
    if launcher == 0:
        return max(ranks, default=0)
    if 2 in ranks:  # what the user can mend; the other ranks were ended because of it
        return 2
    return 128 - launcher if launcher < 0 else launcher


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
