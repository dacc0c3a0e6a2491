"""The trackers of a run: each in a process of its own, so that none can hurt the training.

A tracker's process reads ``metrics.jsonl`` as it grows. The run itself writes that file in any case, so it neither
waits for a tracker nor hands it anything, and what a tracker could not send is there to be sent later.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sftcore.config.fields import to_mapping
from sftcore.config.loader import LoadedConfig
from sftcore.core.components import Tracker
from sftcore.runtime.console import say, warn
from sftcore.runtime.redaction import told
from sftcore.tracking.process import EXIT_LIMIT, STARTED

METRICS = "metrics.jsonl"
"""What is logged in a run, in its output folder: a JSON object a line, with ``step`` and ``time``."""

START_LIMIT = 60
"""Seconds that a tracker may take to start, beside the training."""

FINISH_LIMIT = 30
"""Seconds that a finished run waits for its trackers: all of them together."""

UNSTARTED_LIMIT = 20
"""A tracker that has not started when the run ends is waited for until it had so many seconds."""

STOPPED_LIMIT = 10
"""Seconds that a run waits for its trackers that was stopped, or failed: whoever stopped it is waiting."""

_COMMAND = (sys.executable, "-m", "sftcore.tracking.process")


def chosen(loaded: LoadedConfig) -> list[tuple[str, Tracker]]:
    """Return the trackers of a configuration, each with its name."""
    trackers = loaded.config.trackers
    return [(loaded.selected[f"trackers.{index}"].name, tracker) for index, tracker in enumerate(trackers)]


class TrackerGroup:
    """The trackers of a run. What becomes of one changes nothing in the training; it is told once."""

    def __init__(self, trackers: Iterable[tuple[str, Tracker]], folder: Path) -> None:
        self._processes = [_Process(name, tracker, folder) for name, tracker in trackers if _tracks(type(tracker))]

    def start(self, run: Mapping[str, Any], all_metrics: bool = False) -> None:
        """Let all trackers begin, and wait for none of them.

        Args:
            run: what :meth:`sftcore.Tracker.start` gets.
            all_metrics: send also what ``metrics.jsonl`` holds already.
        """
        for process in self._processes:
            process.start(run, all_metrics)

    def await_start(self) -> None:
        """Wait until each tracker has started, or failed."""
        deadline = time.monotonic() + START_LIMIT + EXIT_LIMIT
        for process in self._processes:
            process.await_start(deadline)

    def finish(self, error: str | None = None, limit: float | None = None) -> list[str]:
        """Let all trackers end, and return the names of those that did not get everything.

        It returns in time, whatever the trackers do: after *limit* seconds, by default :data:`FINISH_LIMIT`, or
        :data:`STOPPED_LIMIT` if the run failed. A tracker that takes longer is stopped, and so are all by Ctrl-C.

        Args:
            error: what ended the run early, as ``Kind: message``.
        """
        if limit is None:
            limit = STOPPED_LIMIT if error else FINISH_LIMIT
        processes, self._processes = self._processes, []
        deadline = time.monotonic() + limit
        try:
            for process in processes:
                process.end(error, limit)
            for process in processes:
                process.wait(deadline)
        except (KeyboardInterrupt, SystemExit):  # whoever is asked to end for the second time waits no longer
            pass
        finally:
            for process in processes:
                process.stop(limit)
        return [process.name for process in processes if process.failed]


def _tracks(cls: type[Tracker]) -> bool:
    """Tell whether *cls* does anything at all."""
    return any(getattr(cls, call) is not getattr(Tracker, call) for call in ("start", "log", "finish"))


class _Process:
    """One tracker, in its process. Two threads listen to what it tells and to what it prints."""

    def __init__(self, name: str, tracker: Tracker, folder: Path) -> None:
        self.name, self._tracker, self._folder = name, tracker, folder
        self.failed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._began = 0.0
        self._ordered = threading.Event()
        self._started = threading.Event()
        self._finished = threading.Event()
        self._over = threading.Event()

    def start(self, run: Mapping[str, Any], all_metrics: bool) -> None:
        cls, metrics = type(self._tracker), self._folder / METRICS
        order = {
            "module": cls.__module__,
            "class": cls.__qualname__,
            "options": to_mapping(self._tracker),
            "run": {**run, "pid": os.getpid()},
            "metrics": str(metrics.absolute()),
            "offset": metrics.stat().st_size if metrics.exists() and not all_metrics else 0,
            "start_limit": START_LIMIT,
            "lost_limit": FINISH_LIMIT,
        }
        self._began = time.monotonic()
        try:
            text = json.dumps(order, default=str).encode() + b"\n"
            self._process = subprocess.Popen(
                _COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"},
                start_new_session=True,  # Ctrl-C in a terminal is for the run, which then tells its trackers
            )
        except Exception as error:  # options that are no JSON, no more processes, no memory
            self._fail(f"cannot be started: {told(error)}")
            self._over.set()
            return
        threading.Thread(target=self._listen, args=(self._process, text), daemon=True).start()
        threading.Thread(target=self._show, args=(self._process,), daemon=True).start()

    def end(self, error: str | None, limit: float) -> None:
        """Ask the tracker to finish."""
        if self._process is None or self._over.is_set():
            return
        self._tell({"error": error, "limit": limit + EXIT_LIMIT})

    def wait(self, deadline: float) -> None:
        """Wait until the tracker has ended, not longer than *deadline*."""
        if self._process is None:
            return
        self.await_start(min(deadline, self._began + UNSTARTED_LIMIT))
        if self._started.is_set() and self._either(self._finished, deadline):
            self._over.wait(EXIT_LIMIT)

    def await_start(self, deadline: float) -> None:
        """Wait until the tracker has started or failed, not longer than *deadline*."""
        self._either(self._started, deadline)

    def stop(self, limit: float) -> None:
        """End the process, whatever it does."""
        if self._process is None:
            return
        if not self._over.is_set():
            if not self._finished.is_set():
                what = f"did not finish within {limit:g} s" if self._started.is_set() else "had not started at the end"
                self._fail(f"{what}, and is stopped")
            self._kill()
            self._over.wait(EXIT_LIMIT)

    def _either(self, event: threading.Event, deadline: float) -> bool:
        """Wait for *event*, or the end of the process; tell whether *event* came."""
        while not event.is_set() and not self._over.is_set() and (left := deadline - time.monotonic()) > 0:
            event.wait(min(left, 0.05))
        return event.is_set()

    def _tell(self, message: Mapping[str, Any]) -> None:
        """Write *message* to the process, if that does not block."""
        if not self._ordered.wait(1):  # a process that does not even read its order
            return
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it is gone
            os.set_blocking(self._process.stdin.fileno(), False)
            os.write(self._process.stdin.fileno(), json.dumps(message).encode() + b"\n")

    def _listen(self, process: subprocess.Popen[bytes], order: bytes) -> None:
        """Hand over the *order*, take what the process tells of itself, and clean up when it has ended."""
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):  # it has died already
            process.stdin.write(order)
            process.stdin.flush()
            self._ordered.set()
        for line in process.stdout:
            with contextlib.suppress(ValueError):
                message = json.loads(line)
                if "started" in message:
                    self._started.set()
                elif "finished" in message:
                    self._finished.set()
                elif "failed" in message:
                    self._fail(f"failed in {message['failed']} and is left out: {message['told']}")
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its number is its own as long as it is not reaped
        if not self._finished.is_set():
            self._kill()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        if not self._finished.is_set():
            if code == -signal.SIGALRM and not self._started.is_set():
                self._fail(f"has not started within {START_LIMIT} s and is left out")
            else:
                self._fail(f"ended (exit code {code}) and is left out")
        self._over.set()

    def _show(self, process: subprocess.Popen[bytes]) -> None:
        """Show what the tracker prints while it starts, as the address of the run; later it is read and dropped."""
        assert process.stderr is not None
        shown = True
        with process.stderr as lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                shown = shown and not line.endswith(STARTED)
                if text and shown:
                    say(self.name, text.removeprefix(f"{self.name}: "))

    def _kill(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _fail(self, what: str) -> None:
        """Tell once what became of the tracker, and how its metrics can be sent."""
        with self._lock:
            first, self.failed = not self.failed, True
        if first:
            warn(
                f"the tracker {self.name} {what}\n"
                f"training is not touched; {self._folder / METRICS} has every metric, and\n"
                f"`sft sync {self._folder} --trace {self.name}` sends them"
            )
