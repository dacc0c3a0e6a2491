"""``python -m sftcore.runtime.parent_process COMMAND...``: the parent of a launcher, which starts the ranks of a run.

It turns signals into requests to stop, and ends with the exit code of the ranks. It imports nothing heavy, because it
stays as long as the run does.
"""

from __future__ import annotations

import io
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from sftcore.runtime.output import guard_output
from sftcore.runtime.rank_control import LAUNCH_ID_VARIABLE, LaunchedProcess
from sftcore.runtime.redaction import redact_argv, register_argv_secrets
from sftcore.runtime.signal_mask import block, own_stop_signals, unblock
from sftcore.runtime.signals import REPEAT_SECONDS

_OUTPUT_SECONDS = 5.0


def launch(command: Sequence[str]) -> int:
    """Run *command*, which starts the ranks of a run, and return the exit code of the run."""
    numbers = own_stop_signals()
    block(numbers)  # for a moment, since the command is to keep them blocked; a request that comes now waits
    guard_output()
    register_argv_secrets(command)
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE) if redact_argv(command) != list(command) else {}
    environ = {**os.environ, LAUNCH_ID_VARIABLE: secrets.token_hex(8)}
    try:
        # in a session of its own: Ctrl-C is for this process, which asks the ranks to stop cleanly
        launched = LaunchedProcess(command, environ, start_new_session=True, **pipes)
    except OSError as error:
        print(f"sft: error: the launcher cannot be started: {command[0]}: {error}", file=sys.stderr)
        return 2
    first_signal = 0.0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal first_signal
        if not first_signal:
            first_signal = time.monotonic()
            with suppress(OSError):  # it has just ended
                launched.request_stop(signal.Signals(number).name)
        elif time.monotonic() - first_signal > REPEAT_SECONDS:
            launched.process.kill()  # its ranks notice that this process ends

    with launched:
        for number in numbers:
            signal.signal(number, on_signal)
        unblock(numbers)
        threads = [threading.Thread(target=_relay, args=(launched.process, name), daemon=True) for name in pipes]
        for thread in threads:
            thread.start()
        code = launched.wait()
        for thread in threads:  # not for long: a process that the launcher has left may keep its output open
            thread.join(_OUTPUT_SECONDS)
        return code


def _relay(process: subprocess.Popen[bytes], name: str) -> None:
    """Print the output *name* of a launcher whose command line has secrets, which some of them print."""
    with io.TextIOWrapper(getattr(process, name), encoding="utf-8", errors="replace") as lines:
        for line in lines:
            print(line, end="", file=getattr(sys, name), flush=True)


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
