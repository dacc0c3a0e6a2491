"""``sft`` and ``python -m sftcore``, which is what launchers start."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import NoReturn

from sftcore.cli.main import main
from sftcore.runtime.launch_protocol import report_exit
from sftcore.runtime.signals import STOP_SIGNALS


def program() -> NoReturn:
    """Run the command line as a process of its own, and end it."""
    if "run" in sys.argv[1:3]:  # run handles them itself to its end; after that they have no effect
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    try:
        code = main()
    except BaseException as error:
        if "torch" not in sys.modules:
            raise
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        else:
            sys.excepthook(type(error), error, error.__traceback__)
            code = 1
    if "RANK" in os.environ:
        code = report_exit(code, os.environ)
    if "torch" in sys.modules:
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> NoReturn:
    """End this process without taking Python down, which takes a second where torch is loaded.

    And more: a thread of the process group that drops the last reference to a tensor waits for Python's lock; if Python
    is being taken down by then, the thread is ended inside C++, which aborts the whole process after a run that went
    well.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # nobody reads it any more
            continue
    os._exit(code)


if __name__ == "__main__":
    program()
