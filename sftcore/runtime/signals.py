"""How a process is asked to stop: by a signal, by the clock, or by the launcher that started it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from sftcore.runtime.rank_control import (
    DEADLINE_VARIABLE,
    LAUNCH_FOLDER_VARIABLE,
    STOPPED_EXIT_CODE,
    report_exit,
    signal_on_stop_request,
)

STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
"""Signals that ask a run to stop. Schedulers can send SIGUSR1 ahead of their time limit."""

REPEAT_SECONDS = 2.0
"""A second signal within this time counts as the first: launchers and terminals send it to all processes they know."""

_BLOCKED_SECONDS, _CLEANUP_SECONDS = 5.0, 60.0
"""How long an interruptible process may take to stop before it is ended: if it blocks in a library, waiting for other
ranks, and does not even see the signal; and if its cleanup does not end."""


class Stopped(BaseException):
    """A run was asked to stop and does so; no error, so nothing that handles errors may catch it."""


class StopRequest:
    """Whether this process was asked to stop.

    Attributes:
        interruptible: no optimizer step is under way that would be lost: a signal raises :class:`Stopped` at once.
    """

    def __init__(self) -> None:
        self.interruptible = True
        self._reason: str | None = None
        self._received = 0.0
        self._deadline: float | None = None

    def set_deadline(self, hours: float | None) -> None:
        """Request the stop after *hours*, if not None; ranks that a launcher started share the deadline."""
        if hours is not None:
            self._deadline = float(os.environ.setdefault(DEADLINE_VARIABLE, str(time.time() + hours * 3600)))

    @property
    def reason(self) -> str | None:
        """The name of the signal, or ``max_hours``; None as long as this process was not asked to stop."""
        if self._reason is None and self._deadline is not None and time.time() >= self._deadline:
            self._reason = "max_hours"
        return self._reason

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._reason is None or self._reason == "max_hours":
            self._reason, self._received = signal.Signals(number).name, now
            if self.interruptible:
                raise Stopped(self._reason)
        elif now - self._received > REPEAT_SECONDS:
            os._exit(128 + number)  # asked twice: now, whatever is lost


_active: list[StopRequest] = []


@contextmanager
def handle_stop_signals(environ: Mapping[str, str]) -> Iterator[StopRequest]:
    """Handle signals and the launcher's requests to stop this process, as long as the context lasts.

    Processes that are forked in it do not handle them: they end with this one.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # Python handles signals only there
        yield stop
        return
    handlers = {number: signal.signal(number, stop._on_signal) for number in STOP_SIGNALS}
    _active.append(stop)
    finished = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_force_exit, args=(reader, stop), name="stop", daemon=True).start()
    if LAUNCH_FOLDER_VARIABLE in environ:
        watch = (Path(environ[LAUNCH_FOLDER_VARIABLE]), finished)
        threading.Thread(target=signal_on_stop_request, args=watch, name="launcher", daemon=True).start()
    try:
        yield stop
    finally:
        finished.set()
        signal.set_wakeup_fd(wakeup)
        os.close(writer)
        _active.remove(stop)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _force_exit(reader: int, stop: StopRequest) -> None:
    """End this process if it was asked to stop while interruptible and cannot.

    Python's handlers run between two lines of the main thread; the pipe *reader* gets signals whatever that does.
    """
    with open(reader, "rb", buffering=0) as signals:
        while number := signals.read(1):
            if number[0] in STOP_SIGNALS and stop.interruptible:
                break
        else:
            return
        time.sleep(_BLOCKED_SECONDS)
        if stop.reason is not None:
            time.sleep(_CLEANUP_SECONDS)
        if stop.interruptible and stop in _active:
            sys.stderr.flush()
            os._exit(report_exit(STOPPED_EXIT_CODE))


def _mask_signals(how: int) -> None:
    """Block or unblock the signals in this process, so that a child does not handle one before it ignores them."""
    if _active:
        signal.pthread_sigmask(how, STOP_SIGNALS)


def _ignore_in_child() -> None:
    """Make a forked process one that handles no requests, from its very first moment."""
    if _active:
        signal.set_wakeup_fd(-1)
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        _active.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=partial(_mask_signals, signal.SIG_BLOCK),
        after_in_parent=partial(_mask_signals, signal.SIG_UNBLOCK),
        after_in_child=_ignore_in_child,
    )
