"""``python -m sftcore.tracking.process``: one tracker, fed from ``metrics.jsonl``.

The first line of standard input is the order: which tracker, with which options, for which run. The second line says
that the run has ended. If there is none, because the run was killed, the tracker is finished all the same. Standard
output tells how far the tracker is; what the tracker itself prints goes to standard error.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from sftcore.runtime.redaction import hide, learn, told
from sftcore.runtime.signals import SIGNALS

INTERVAL = 0.5
"""Seconds between two looks at ``metrics.jsonl``."""

STARTED = b"\0\n"
"""Stands in what the tracker prints where it has started."""

EXIT_LIMIT = 5
"""Seconds that this process may take to end after the tracker has finished, or failed."""

_LOST = "Killed: the process of the run ended without a word"


class Follower:
    """Reads metrics as they are written, from the byte *offset* on; a line that is not complete yet waits."""

    def __init__(self, path: Path, offset: int) -> None:
        self.path = path
        self.offset = offset

    def read(self) -> Iterator[tuple[dict[str, float], int]]:
        """Yield the metrics, and their step, that have come since the last call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            self.offset = min(self.offset, os.fstat(file.fileno()).st_size)  # it may have been cut, to resume a run
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                if found := _metrics(line):
                    yield found


def _metrics(line: bytes) -> tuple[dict[str, float], int] | None:
    try:
        content = json.loads(line)
        step = int(content.pop("step"))
        content.pop("time", None)
        return {name: float(value) if isinstance(value, str) else value for name, value in content.items()}, step
    except (ValueError, KeyError, AttributeError, TypeError):  # not ours
        return None


class _End:
    """What the run says last: how it ended."""

    def __init__(self, start_limit: float, lost_limit: float) -> None:
        self.come = threading.Event()
        self.error: str | None = _LOST
        self._limit = lost_limit
        self._lock = threading.Lock()
        _alarm(start_limit)

    def started(self) -> None:
        """Lift the limit of the start, unless there is that of the end already."""
        with self._lock:
            if not self.come.is_set():
                _alarm(0)

    def await_it(self, control: BinaryIO) -> None:
        """Wait for the last line, and limit what may follow it."""
        try:
            message = json.loads(control.readline())
            self.error, self._limit = message["error"], message["limit"]
        except (ValueError, KeyError, OSError):  # the run was killed, and nobody reads what is printed
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), 1)
                os.dup2(nothing.fileno(), 2)
        with self._lock:
            _alarm(self._limit)
            self.come.set()


def _alarm(seconds: float) -> None:
    """Let the kernel end this process after *seconds*, whatever it is doing; 0 lifts that."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def ended_by(error: str | None) -> BaseException | None:
    """Return an exception that reads like *error*, ``Kind: message``, and is of that kind if Python has it."""
    if error is None:
        return None
    kind, _, message = error.partition(": ")
    cls = getattr(builtins, kind, None)
    if isinstance(cls, type) and issubclass(cls, BaseException):
        try:
            return cls(message)
        except TypeError:  # UnicodeDecodeError wants more
            pass
    name = kind if kind.isidentifier() else "Error"
    made: BaseException = type(name, (Exception,), {})(message)
    return made


def _made(order: Mapping[str, Any]) -> Any:
    """Return the tracker that *order* describes."""
    from sftcore.config.document import Document
    from sftcore.config.fields import from_mapping

    found: Any = importlib.import_module(order["module"])
    for name in order["class"].split("."):
        found = getattr(found, name)
    return from_mapping(found, order["options"], Document({}), ())


def _hide_git_logins() -> None:
    """Let git tell the addresses of the repository without logins: trackers ask it, and send them."""
    asked = ["git", "config", "--get-regexp", r"^remote\..*\.url$"]
    try:
        found = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.SubprocessError):  # no git
        return
    number = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    for line in found.splitlines():
        key, _, address = line.partition(" ")
        if (hidden := hide(address)) != address:
            os.environ[f"GIT_CONFIG_KEY_{number}"], os.environ[f"GIT_CONFIG_VALUE_{number}"] = key, hidden
            number += 1
    os.environ["GIT_CONFIG_COUNT"] = str(number)


def main() -> int:
    """Do what the order says, and return the exit code."""
    control, status = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)  # nobody can answer a question here
    os.dup2(2, 1)

    def tell(**message: str) -> None:
        with contextlib.suppress(OSError):  # the run was killed
            status.write(json.dumps(message) + "\n")
            status.flush()

    for number in SIGNALS:  # a scheduler may send them to every process; the run says the end
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    os.nice(5)  # training comes first
    order = json.loads(control.readline())
    sys.argv = ["sftcore", *order["run"].get("command", [])]
    learn(order["options"])
    _hide_git_logins()
    end = _End(order["start_limit"], order["lost_limit"])
    threading.Thread(target=end.await_it, args=(control,), daemon=True).start()
    doing = "start"
    try:
        tracker = _made(order)
        tracker.start(order["run"])
        end.started()
        sys.stdout.flush()
        sys.stderr.flush()
        with contextlib.suppress(OSError):
            os.write(2, STARTED)
        tell(started="")
        doing, metrics = "log", Follower(Path(order["metrics"]), order["offset"])
        while True:
            last = end.come.wait(INTERVAL)
            for found in metrics.read():
                tracker.log(*found)
            if last:
                break
        doing = "finish"
        tracker.finish(ended_by(end.error))
    except Exception as error:  # of a library that we do not know
        tell(failed=doing, told=told(error))
        _alarm(EXIT_LIMIT)
        return 1
    tell(finished="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
