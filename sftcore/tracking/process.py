"""``python -m sftcore.tracking.process``: one tracker, which reads ``metrics.jsonl``.

The first line of standard input is the order: which tracker, with which options, for which run. The second line reports
the end of the run; without one, because the run was killed, the tracker is finished all the same. Standard output
reports the progress of the tracker; what the tracker itself prints goes to standard error.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from sftcore.config.document import Document
from sftcore.config.fields import from_mapping
from sftcore.runtime.output import guard_output
from sftcore.runtime.redaction import describe_error, redact_text, register_secrets

INTERVAL = 0.5  # seconds between two reads of metrics.jsonl
EXIT_LIMIT = 5  # seconds that this process may take to end after the tracker has finished, or failed
STARTED = b"\0\n"  # separates what the tracker prints while it starts from its later output
_KILLED = "Killed: the process of the run ended without a report"


class MetricsReader:
    """Reads metrics while they are written, from the byte *offset* on; an incomplete line waits."""

    def __init__(self, path: Path, offset: int) -> None:
        self.path = path
        self.offset = offset

    def read_new(self) -> Iterator[tuple[dict[str, float], int]]:
        """Yield the metrics since the last call, with their steps."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            self.offset = min(self.offset, os.fstat(file.fileno()).st_size)  # a resumed run truncates the file
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                if metrics := _parse_metrics(line):
                    yield metrics


def _parse_metrics(line: bytes) -> tuple[dict[str, float], int] | None:
    try:
        content = json.loads(line)
        step = int(content.pop("step"))
        content.pop("time", None)
        return {name: float(value) if isinstance(value, str) else value for name, value in content.items()}, step
    except (ValueError, KeyError, AttributeError, TypeError):  # not written by us
        return None


class _RunEnd:
    """The last report of the run: its error as ``Kind: message``, or None; *reported* is set when it comes."""

    def __init__(self, start_limit: float, killed_limit: float) -> None:
        self.reported, self._lock = threading.Event(), threading.Lock()
        self.error: str | None = _KILLED
        self._limit = killed_limit
        _exit_after(start_limit)

    def lift_start_limit(self) -> None:
        """Remove the time limit of the start, unless that of the end applies already."""
        with self._lock:
            if not self.reported.is_set():
                _exit_after(0)

    def wait(self, control: BinaryIO) -> None:
        """Wait for the report on *control*, and set the time limit of the end."""
        try:
            message = json.loads(control.readline())
            self.error, self._limit = message["error"], message["limit"]
        except (ValueError, KeyError, OSError):  # the run was killed, so nobody reads the output
            with open(os.devnull, "wb") as null:
                os.dup2(null.fileno(), 1)
                os.dup2(null.fileno(), 2)
        with self._lock:
            _exit_after(self._limit)
            self.reported.set()


def _exit_after(seconds: float) -> None:
    """Have the kernel end this process after *seconds*, whatever it is doing; 0 cancels that."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def parse_error(error: str | None) -> BaseException | None:
    """The exception that *error*, ``Kind: message``, describes; a built-in one if it has that name."""
    if error is None:
        return None
    kind, _, message = error.partition(": ")
    cls = getattr(builtins, kind, None)
    if isinstance(cls, type) and issubclass(cls, BaseException):
        try:
            return cls(message)
        except TypeError:  # UnicodeDecodeError needs more arguments
            pass
    name = kind if kind.isidentifier() else "Error"
    exception: BaseException = type(name, (Exception,), {})(message)
    return exception


def _redact_git_remotes() -> None:
    """Configure git to report the addresses of remotes without logins: trackers read and send them."""
    command = ["git", "config", "--get-regexp", r"^remote\..*\.url$"]
    try:
        remotes = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.SubprocessError):  # no git
        return
    number = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    for line in remotes.splitlines():
        key, _, address = line.partition(" ")
        if (redacted := redact_text(address)) != address:
            os.environ[f"GIT_CONFIG_KEY_{number}"], os.environ[f"GIT_CONFIG_VALUE_{number}"] = key, redacted
            number += 1
    os.environ["GIT_CONFIG_COUNT"] = str(number)


def main() -> int:
    """Run the tracker of the order, and return the exit code."""
    control, reports = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull, "rb") as null:
        os.dup2(null.fileno(), 0)  # nobody can answer a question here
    os.dup2(2, 1)

    def report(**message: str) -> None:
        with contextlib.suppress(OSError):  # the run was killed
            reports.write(json.dumps(message) + "\n")
            reports.flush()

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    os.nice(5)  # training has priority
    order = json.loads(control.readline())
    sys.argv = ["sftcore", *order["run"].get("command", [])]
    register_secrets(order["options"])
    guard_output()
    _redact_git_remotes()
    end = _RunEnd(order["start_limit"], order["killed_limit"])
    threading.Thread(target=end.wait, args=(control,), daemon=True).start()
    call = "start"
    try:
        tracker: Any = from_mapping(pkgutil.resolve_name(order["class"]), order["options"], Document({}), ())
        tracker.start(order["run"])
        end.lift_start_limit()
        sys.stdout.flush()
        sys.stderr.flush()
        with contextlib.suppress(OSError):
            os.write(2, STARTED)
        report(state="started")
        call, reader = "log", MetricsReader(Path(order["metrics"]), order["offset"])
        while True:
            last = end.reported.wait(INTERVAL)
            for metrics, step in reader.read_new():
                tracker.log(metrics, step)
            if last:
                break
        call = "finish"
        tracker.finish(parse_error(end.error))
    except Exception as error:  # of a library that we do not know
        report(call=call, error=describe_error(error))
        _exit_after(EXIT_LIMIT)
        return 1
    report(state="finished")
    return 0


if __name__ == "__main__":
    sys.exit(main())
