"""The program ``sft``, which launchers start as ``python -m sftcore``."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

from sftcore.cli.main import main
from sftcore.runtime.rank_control import report_exit
from sftcore.runtime.signal_mask import block, own_stop_signals


def program() -> NoReturn:
    """Run the command line, and end this process with its exit code."""
    if "run" in sys.argv[1:3]:  # main() handles them from the moment it can, and has them ignored at its end
        block(own_stop_signals())
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
        code = report_exit(code)
    if "torch" in sys.modules:
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> NoReturn:
    """End this process without the shutdown of the interpreter, which takes a second where torch is loaded.

    A thread of the process group that drops the last reference to a tensor waits for the interpreter lock. During the
    shutdown the thread would be terminated inside C++, which aborts the process after a successful run.
    """
    if hasattr(signal, "SIGCHLD"):  # torch raises an error in its handler when a process that loads data was ended
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the reader has gone
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    program()
