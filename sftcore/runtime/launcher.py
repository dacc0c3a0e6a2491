"""The launcher's parent: it hands on signals as requests to stop, and the exit code of the ranks.

It imports nothing heavy, because it stays as long as the run does: ``python -m sftcore.runtime.launcher COMMAND...``.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

from sftcore.runtime.launched import Launched
from sftcore.runtime.signals import LAUNCH, SAME, SIGNALS


def launch(command: Sequence[str]) -> int:
    """Run *command*, which starts the ranks of a run, and return the exit code of the run."""
    if hasattr(signal, "SIGUSR1"):  # schedulers send it to all processes: to the command too, which would die
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        # of a session of its own: a Ctrl-C is for this process, which asks the ranks to stop in good order
        launched = Launched(command, {**os.environ, LAUNCH: secrets.token_hex(8)}, start_new_session=True)
    except OSError as error:
        print(f"sft: error: the launcher cannot be started: {command[0]}: {error}", file=sys.stderr)
        return 2
    asked = 0.0

    def signalled(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = time.monotonic()
            launched.ask(signal.Signals(number).name)
        elif time.monotonic() - asked > SAME:
            launched.process.terminate()

    with launched:
        for number in SIGNALS:
            signal.signal(number, signalled)
        return launched.wait()


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
