"""``python -m sftcore.runtime.parent_process COMMAND...``: the parent of a launcher, which starts the ranks of a run.

It turns signals into requests to stop, and ends with the exit code of the ranks. It imports nothing heavy, because it
stays as long as the run does.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

from sftcore.runtime.rank_control import LAUNCH_ID_VARIABLE, LaunchedProcess
from sftcore.runtime.signals import REPEAT_SECONDS, STOP_SIGNALS


def launch(command: Sequence[str]) -> int:
    """Run *command*, which starts the ranks of a run, and return the exit code of the run."""
    if hasattr(signal, "SIGUSR1"):  # schedulers send it to all processes, so to the command too, which would die of it
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    environ = {**os.environ, LAUNCH_ID_VARIABLE: secrets.token_hex(8)}
    try:
        # in a session of its own: Ctrl-C is for this process, which asks the ranks to stop cleanly
        launched = LaunchedProcess(command, environ, start_new_session=True)
    except OSError as error:
        print(f"sft: error: the launcher cannot be started: {command[0]}: {error}", file=sys.stderr)
        return 2
    first_signal = 0.0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal first_signal
        if not first_signal:
            first_signal = time.monotonic()
            launched.request_stop(signal.Signals(number).name)
        elif time.monotonic() - first_signal > REPEAT_SECONDS:
            launched.process.terminate()

    with launched:
        for number in STOP_SIGNALS:
            signal.signal(number, on_signal)
        return launched.wait()


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
