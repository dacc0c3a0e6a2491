"""Which signals ask a process to stop, and which processes they reach: a run, but neither its workers nor launchers.

A scheduler, ``systemctl stop`` or ``kill -- -GROUP`` signals every process of a job at once. Those that a run started
must not end before it has saved, whatever handlers their libraries install: so the signals are blocked in them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")

STOP_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""Signals that ask a run to stop. Schedulers can send SIGUSR1 or SIGUSR2 ahead of their time limit."""


def own_stop_signals() -> set[int]:
    """The stop signals that this process handles: not SIGHUP where it was started with ``nohup``."""
    hangup = getattr(signal, "SIGHUP", None)
    ignored = hangup and hangup not in block(()) and signal.getsignal(hangup) is signal.SIG_IGN
    return {*STOP_SIGNALS} - {hangup if ignored else None}


def block(numbers: Iterable[int]) -> set[int]:
    """Block the signals *numbers* in this thread, where the system can; those that were blocked before."""
    return {*signal.pthread_sigmask(signal.SIG_BLOCK, numbers)} if hasattr(signal, "pthread_sigmask") else set()


def unblock(numbers: Iterable[int]) -> None:
    """Let the signals *numbers* reach this thread, at once those that came before."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Defer requests to stop as long as the context lasts; processes that are started in it do not get them at all."""
    numbers = own_stop_signals()
    before = block(numbers)
    try:
        yield
    finally:
        unblock(numbers - before)


def end_with_parent(parent: int) -> None:
    """Let this process, a fork of *parent*, end when that ends, and not by signals that are meant for it."""
    block(STOP_SIGNALS)
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def terminate_by_sigkill() -> None:
    """Have multiprocessing end processes by SIGKILL: ours do not get SIGTERM."""
    from multiprocessing.popen_fork import Popen

    Popen.terminate = Popen.kill  # type: ignore[method-assign]
