"""Limits of a chat template: CPU time, memory, and the length of what it makes.

Jinja has no limits of its own. A template is tried once in a forked process that the operating system ends when it
takes too much; a timer ends a rendering that takes too long for other reasons, such as what a message says.
"""

from __future__ import annotations

import math
import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, TypeVar

SECONDS = 1.0
"""CPU time of one rendering."""

MEMORY = 1 << 28
"""Bytes that the process in which a template is tried may take more than the one it is forked from."""

CHARACTERS = 1 << 22
"""Length of the longest text or list that a template may make; its output may be four times as long."""

_BITS = 1024
"""Size of the largest product or power."""

_INTERVAL = 0.05
"""Seconds of CPU time after which a rendering that is over its limit is interrupted again: Jinja may catch an error."""

_DEADLINE = 60
"""Seconds of real time after which a trial ends, whatever it waits for."""

_OUT_OF_MEMORY = 3
"""Exit code of a trial."""

_WIDE = re.compile(r"\d{5,}|\*|\{[^{}]*\{")
"""In a format string: a width of five digits, or one that comes from a value."""

_REPEATED = {"indent": "\n", "expandtabs": "\t"}
"""Methods and filters that print a number of blanks for each of these characters."""

_Result = TypeVar("_Result")


class LimitError(Exception):
    """A template exceeds a limit."""


def check_length(length: int, limit: int = CHARACTERS) -> None:
    """Raise :class:`LimitError` if the *length* of a text or list is above *limit*."""
    if length > limit:
        raise LimitError(f"it exceeds the limit of {limit:,} characters or items")


def check_product(operator: str, left: Any, right: Any) -> None:
    """Raise :class:`LimitError` if ``left * right`` or ``left ** right`` would be too large."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _BITS:
            raise LimitError("it computes a number that exceeds the limit of 1,024 bits")
    elif operator == "*":
        for value, times in ((left, right), (right, left)):
            if isinstance(value, (str, list, tuple)) and isinstance(times, int):
                check_length(len(value) * times)


def check_text_call(text: str, name: str, arguments: Sequence[Any]) -> None:
    """Raise :class:`LimitError` if the method or filter *name* of *text* would make a text that is too long."""
    for number in arguments:
        if isinstance(number, int):
            check_length(abs(number))
    if name in _REPEATED:
        repeated = max([4, *(value if isinstance(value, int) else len(str(value)) for value in arguments[:1])])
        check_length(len(text) + (text.count(_REPEATED[name]) + 1) * repeated)
    elif name == "replace" and len(arguments) > 1:
        old, new = str(arguments[0]), str(arguments[1])
        check_length(len(text) + (text.count(old) if old else len(text) + 1) * len(new))


def check_format(template: str) -> None:
    """Raise :class:`LimitError` if a width in a format string is too large, or taken from a value."""
    if _WIDE.search(template):
        raise LimitError("it formats with a width that is too large, or taken from a value")


_until = math.inf
"""CPU time of the main thread at which its rendering ends."""

_is_installed = False


def _interrupt(number: int, frame: FrameType | None) -> None:
    if time.thread_time() >= _until:
        raise LimitError(f"it exceeds the limit of {SECONDS:g} s of CPU time")


def timed(render: Callable[[], _Result]) -> _Result:
    """Return ``render()``; in the main thread, and where the system has timers, within :data:`SECONDS` of CPU time.

    Raises:
        LimitError: the time is up.
    """
    global _until, _is_installed
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        return render()
    if not _is_installed:  # to ask for the handler takes 4 µs
        signal.signal(signal.SIGPROF, _interrupt)
        _is_installed = True
    _until = time.thread_time() + SECONDS
    signal.setitimer(signal.ITIMER_PROF, SECONDS, _INTERVAL)
    try:
        return render()
    finally:
        _until = math.inf  # first, and no call: a signal that is handled after this raises nothing
        signal.setitimer(signal.ITIMER_PROF, 0)


def _limit_memory() -> None:
    """Let this process take no more than :data:`MEMORY` beyond its present address space, where the system tells it."""
    import resource  # not on Windows

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    with suppress(OSError, ValueError), open("/proc/self/statm", "rb") as file:  # a ValueError where less is allowed
        size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, hard))


def try_in_child(steps: Callable[[], Iterator[None]]) -> None:
    """Go through *steps* in a forked process, with limits of CPU time for each and of memory; nothing without ``fork``.

    Raises:
        LimitError: they exceed a limit.
    """
    if not hasattr(os, "fork"):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, whose locks no template needs
        child = os.fork()
    if not child:
        _run_child(steps)
    try:
        _, status = os.waitpid(child, 0)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    if os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == _OUT_OF_MEMORY:
        reasons: dict[int, str] = {signal.SIGPROF: f"{SECONDS:g} s of CPU time", signal.SIGALRM: f"{_DEADLINE} s"}
        limit = reasons.get(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, f"{MEMORY >> 20} MiB of memory")
        raise LimitError(f"it exceeds the limit of {limit}")


def _run_child(steps: Callable[[], Iterator[None]]) -> None:
    code = 0
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(number, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, _DEADLINE)
        _limit_memory()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        for _ in steps():
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
    except MemoryError:
        code = _OUT_OF_MEMORY
    except BaseException:
        code = 0  # of any other error the caller hears when it takes the same steps
    finally:
        os._exit(code)
