"""How a run is asked to stop: by a signal, by the clock, or by the launcher that started it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from sftcore.runtime.files import write_atomically

EXIT_CODE = 75
"""What a run ends with that was stopped and can go on: EX_TEMPFAIL of sysexits.h, "try again"."""

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
"""What asks a run to stop. Schedulers send USR1 ahead of their limit, if told to."""

LAUNCHER = "SFTCORE_LAUNCHER"
"""The environment variable with the folder through which a launcher and its ranks speak."""

LAUNCH = "SFTCORE_LAUNCH"
"""The environment variable with an id of the launch, which ranks that are started anew have again."""

DEADLINE = "SFTCORE_DEADLINE"
"""The environment variable with the time, in seconds since 1970, at which ``max_hours`` are over."""

ASKED, ALIVE, ENDED = "stop", "alive", "exit-"
"""Files in that folder: what asks to stop, once it does; one that the launcher's parent keeps locked while it lives;
and, with its number behind the name, with what each rank has ended."""

SAME = 2.0
"""Seconds within which a second signal is taken for the first: launchers and terminals send it to all they know."""
_LOOK = 0.2

_BLOCKED, _SLOW = 5.0, 60.0
"""Seconds after which a process that was asked to stop at once is ended: because it waits for others in a library and
does not even hear of it; because what it does to end in good order does not come to an end."""


class Stopped(BaseException):
    """A run was asked to stop, and does. Nothing that handles errors may take it for one."""


class Stop:
    """Whether this process was asked to stop.

    Attributes:
        at_once: no step is under way that would be lost: whoever asks gets :class:`Stopped` where the process is.
    """

    def __init__(self) -> None:
        self.at_once = True
        self._asked: str | None = None
        self._when = 0.0
        self._deadline: float | None = None

    def after(self, hours: float | None) -> None:
        """Ask to stop after so many *hours*, if this is a number; the ranks of a launcher have what is left of them."""
        if hours is not None:
            self._deadline = float(os.environ.setdefault(DEADLINE, str(time.time() + hours * 3600)))

    @property
    def asked(self) -> str | None:
        """What asked this process to stop, or None."""
        if self._asked is None and self._deadline is not None and time.time() >= self._deadline:
            self._asked = "max_hours"
        return self._asked

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked is None or self._asked == "max_hours":
            self._asked, self._when = signal.Signals(number).name, now
            if self.at_once:
                raise Stopped(self._asked)
        elif now - self._when > SAME:
            os._exit(128 + number)  # asked twice: now, whatever is lost


@contextmanager
def listening(environ: Mapping[str, str]) -> Iterator[Stop]:
    """Hear those who ask this process to stop, as long as the context lasts.

    Processes that are forked in it do not listen: they end with this one.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # only there Python tells of signals
        yield stop
        return
    before = {number: signal.signal(number, stop._signalled) for number in SIGNALS}
    _listeners.append(stop)
    over = threading.Event()
    heard, tell = os.pipe()
    os.set_blocking(tell, False)
    woken = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=_insist, args=(heard, stop), name="stop", daemon=True).start()
    if LAUNCHER in environ:
        threading.Thread(target=_follow, args=(Path(environ[LAUNCHER]), over), name="launcher", daemon=True).start()
    try:
        yield stop
    finally:
        over.set()
        signal.set_wakeup_fd(woken)
        os.close(tell)
        _listeners.remove(stop)
        for number, handler in before.items():
            signal.signal(number, handler)


def told(code: int, environ: Mapping[str, str]) -> int:
    """Tell the launcher's parent that this rank ends with *code*, and return what to tell the launcher itself.

    To a launcher a rank that was asked to stop has done well: it shall neither start it anew nor end the others.
    """
    if LAUNCHER not in environ:
        return code
    with suppress(OSError):
        write_atomically(Path(environ[LAUNCHER]) / f"{ENDED}{environ.get('RANK', '0')}", str(code))
        return 0 if code == EXIT_CODE else code
    return code


def _insist(heard: int, stop: Stop) -> None:
    """End this process if it was asked to stop at once and cannot; signals are heard here whatever the others do."""
    with open(heard, "rb", buffering=0) as signals:
        while number := signals.read(1):
            if number[0] in SIGNALS and stop.at_once:
                break
        else:
            return
        time.sleep(_BLOCKED)
        if stop.asked is not None:
            time.sleep(_SLOW)
        if stop.at_once and stop in _listeners:
            sys.stderr.flush()
            os._exit(told(EXIT_CODE, os.environ))


_listeners: list[Stop] = []


def _hold_back() -> None:
    if _listeners:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _let_through() -> None:
    if _listeners:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _forked() -> None:
    """Be a process that does not listen, from its very first moment."""
    if _listeners:
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        _listeners.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_forked)


def _follow(folder: Path, over: threading.Event) -> None:
    """Send this process a signal once its launcher says so, or is gone."""
    with suppress(OSError, ValueError), (folder / ALIVE).open("rb") as lock:
        while not over.wait(_LOOK):
            if (asked := folder / ASKED).exists():
                os.kill(os.getpid(), signal.Signals[asked.read_text() or "SIGTERM"])
                return
            if _unlocked(lock):
                os.kill(os.getpid(), signal.SIGTERM)
                return


def _unlocked(file: BinaryIO) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
