"""How a process is asked to stop: by a signal, by the clock, or by the launcher that started it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from sftcore.runtime.rank_control import (
    DEADLINE_VARIABLE,
    LAUNCH_FOLDER_VARIABLE,
    STOPPED_EXIT_CODE,
    report_exit,
    signal_on_stop_request,
)
from sftcore.runtime.signal_mask import (
    STOP_SIGNALS,
    block,
    end_with_parent,
    own_stop_signals,
    terminate_by_sigkill,
    unblock,
)

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

    Processes that are forked in it do not get them: they end with this one.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # Python handles signals only there
        yield stop
        return
    numbers = own_stop_signals()
    deferred = block(numbers) & numbers
    handlers = {number: signal.signal(number, stop._on_signal) for number in numbers}
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
        unblock(numbers)
        yield stop
    finally:
        block(deferred)
        finished.set()
        signal.set_wakeup_fd(wakeup)
        os.close(writer)
        _active.remove(stop)
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_IGN if number in deferred else handler)  # it has its exit code already


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


_forking: tuple[int, bool] = 0, False  # the process that forks, and whether its main thread does


def _before_fork() -> None:
    """Block the signals, so that a child has no moment in which one ends it, or is handled there."""
    global _forking
    if _active:
        _forking = os.getpid(), threading.current_thread() is threading.main_thread()
        block(STOP_SIGNALS)
        if "multiprocessing.popen_fork" in sys.modules:
            terminate_by_sigkill()


def _after_fork_in_parent() -> None:
    if _active:
        unblock(STOP_SIGNALS)


def _after_fork_in_child() -> None:
    """Make a forked process one that gets no requests to stop, and ends with the run."""
    if _active:
        signal.set_wakeup_fd(-1)
        _active.clear()
        parent, in_main_thread = _forking
        if in_main_thread:  # else the system would end it with the thread
            end_with_parent(parent)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
