"""The trackers of a run: each in a process of its own, so that none can affect training.

The process reads ``metrics.jsonl`` while the run writes it, which it does in any case. So the run never waits for a
tracker or sends it a metric, and ``sft sync`` can send later what a tracker missed.
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
from sftcore.runtime.console import status, warn
from sftcore.runtime.redaction import describe_error
from sftcore.runtime.signal_mask import stop_signals_blocked
from sftcore.tracking.process import EXIT_LIMIT, STARTED

METRICS = "metrics.jsonl"
"""File in the output folder with the metrics of a run: one JSON object per line, with ``step`` and ``time``."""

# Time limits, in seconds:
START_LIMIT = 60  # that a tracker may take to start, while the run trains
UNSTARTED_LIMIT = 20  # since its start that a tracker gets if it has not started when the run ends
FINISH_LIMIT = 30  # that a finished run waits for its trackers, all of them together
STOPPED_LIMIT = 10  # that a run waits for them after it was stopped, or failed: the user is waiting

_METHODS = ("start", "log", "finish")  # the tracker `none` overrides none of them
_COMMAND = (sys.executable, "-m", "sftcore.tracking.process")


def selected_trackers(loaded: LoadedConfig) -> list[tuple[str, Tracker]]:
    """The trackers of a configuration, each with its name."""
    trackers = loaded.config.trackers
    return [(loaded.selected[f"trackers.{index}"].name, tracker) for index, tracker in enumerate(trackers)]


def describe_run(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What trackers learn of the run with this *record*, the content of its ``run.json``, in *folder*."""
    return {
        "id": record.get("id") or folder.name,
        "name": (record.get("training_args") or {}).get("run_name") or folder.name,
        "command": record["command"][2:],
        "output_dir": str(folder),
        "config": record["config"],
        "versions": record["versions"],
    }


class TrackerGroup:
    """The trackers of a run. A failure of one is reported once, and changes nothing in training."""

    def __init__(self, trackers: Iterable[tuple[str, Tracker]], folder: Path) -> None:
        self._processes = [
            _TrackerProcess(name, tracker, folder)
            for name, tracker in trackers
            if any(getattr(type(tracker), method) is not getattr(Tracker, method) for method in _METHODS)
        ]

    def start(self, run: Mapping[str, Any], all_metrics: bool = False) -> None:
        """Start all trackers without waiting for them.

        Args:
            run: the argument of :meth:`sftcore.Tracker.start`.
            all_metrics: also send what ``metrics.jsonl`` contains already.
        """
        for process in self._processes:
            process.start(run, all_metrics)

    def finish(self, error: str | None = None, limit: float | None = None) -> list[str]:
        """Finish all trackers, and return the names of those that missed metrics.

        A tracker that takes longer than *limit* is stopped, and so are all by Ctrl-C.

        Args:
            error: what ended the run early, as ``Kind: message``.
            limit: in seconds; by default :data:`FINISH_LIMIT`, or :data:`STOPPED_LIMIT` with an *error*.
        """
        start_limit = UNSTARTED_LIMIT if limit is None else START_LIMIT
        if limit is None:
            limit = STOPPED_LIMIT if error else FINISH_LIMIT
        processes, self._processes = self._processes, []
        deadline = time.monotonic() + limit
        try:
            for process in processes:
                process.report_end(error, limit)
            for process in processes:
                process.wait(deadline, start_limit)
        except (KeyboardInterrupt, SystemExit):  # asked to stop for the second time
            pass
        finally:
            for process in processes:
                process.stop(limit)
        return [process.name for process in processes if "failed" in process.state]


class _TrackerProcess:
    """One tracker in its process. Two threads read its reports and its output.

    Attributes:
        state: what it has reached: ``ordered`` (it can read its order), ``started``, ``finished``, ``failed``,
            ``exited``.
    """

    def __init__(self, name: str, tracker: Tracker, folder: Path) -> None:
        self.name, self._tracker, self._folder = name, tracker, folder
        self._process: subprocess.Popen[bytes]
        self._began = 0.0
        self.state = {"exited"}  # until it is started
        self._changed = threading.Condition()

    def start(self, run: Mapping[str, Any], all_metrics: bool) -> None:
        cls, metrics = type(self._tracker), self._folder / METRICS
        order = {
            "class": f"{cls.__module__}:{cls.__qualname__}",
            "options": to_mapping(self._tracker),
            "run": {**run, "pid": os.getpid()},
            "metrics": str(metrics.absolute()),
            "offset": metrics.stat().st_size if metrics.exists() and not all_metrics else 0,
            "start_limit": START_LIMIT,
            "killed_limit": FINISH_LIMIT,
        }
        self._began = time.monotonic()
        try:
            text = json.dumps(order, default=str).encode() + b"\n"
            with stop_signals_blocked():  # they are for the run, which then finishes its trackers
                self._process = subprocess.Popen(
                    _COMMAND,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"},
                    start_new_session=True,
                )
        except Exception as error:  # options that are not JSON, too many processes, no memory
            self._fail(f"cannot be started: {describe_error(error)}")
            return
        self.state.remove("exited")
        threading.Thread(target=self._read_reports, args=(self._process, text), daemon=True).start()
        threading.Thread(target=self._show_output, args=(self._process,), daemon=True).start()

    def report_end(self, error: str | None, limit: float) -> None:
        """Report the end of the run to the tracker, if that does not block."""
        if not self._wait_for("ordered", time.monotonic() + 1):  # it does not even read its order
            return
        assert self._process.stdin
        message = {"error": error, "limit": limit + EXIT_LIMIT}
        with contextlib.suppress(OSError, ValueError):  # it has exited
            os.set_blocking(self._process.stdin.fileno(), False)
            os.write(self._process.stdin.fileno(), json.dumps(message).encode() + b"\n")

    def wait(self, deadline: float, start_limit: float) -> None:
        """Wait until the tracker has exited, at most until *deadline*, or *start_limit* if it has not even started."""
        started = self._wait_for("started", min(deadline, self._began + start_limit))
        if started and self._wait_for("finished", deadline):
            self._wait_for("exited", time.monotonic() + EXIT_LIMIT)

    def stop(self, limit: float) -> None:
        """Kill the process, if it has not exited."""
        if "exited" in self.state:
            return
        if "finished" not in self.state:
            problem = f"did not finish within {limit:g} s" if "started" in self.state else "did not start in time"
            self._fail(f"{problem} and is stopped")
        self._kill()
        self._wait_for("exited", time.monotonic() + EXIT_LIMIT)

    def _enter(self, state: str) -> None:
        with self._changed:
            self.state.add(state)
            self._changed.notify_all()

    def _wait_for(self, state: str, deadline: float) -> bool:
        """Wait until the tracker is in *state*, its process has exited, or it is *deadline*; whether it is."""
        with self._changed:
            self._changed.wait_for(lambda: self.state & {state, "exited"}, max(deadline - time.monotonic(), 0))
            return state in self.state

    def _read_reports(self, process: subprocess.Popen[bytes], order: bytes) -> None:
        """Send the *order*, read the reports of the process, and clean up when it has exited."""
        assert process.stdin
        assert process.stdout
        with contextlib.suppress(OSError):  # it has exited already
            process.stdin.write(order)
            process.stdin.flush()
            self._enter("ordered")
        for line in process.stdout:
            with contextlib.suppress(ValueError):
                report = json.loads(line)
                if "error" in report:
                    self._fail(f"failed in {report['call']} and is disabled: {report['error']}")
                else:
                    self._enter(report["state"])
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its pid is not reused until it is reaped
        finished = "finished" in self.state
        if not finished:
            self._kill()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        if not finished:
            late = code == -signal.SIGALRM and "started" not in self.state
            problem = f"has not started within {START_LIMIT} s" if late else f"ended (exit code {code})"
            self._fail(f"{problem} and is disabled")
        self._enter("exited")

    def _show_output(self, process: subprocess.Popen[bytes]) -> None:
        """Show what the tracker prints while it starts, such as the address of the run; drop what it prints later."""
        assert process.stderr
        starting = True
        with process.stderr as lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                starting = starting and not line.endswith(STARTED)
                if text and starting:
                    status(self.name, text.removeprefix(f"{self.name}: "))

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _fail(self, problem: str) -> None:
        """Report the first *problem* of the tracker, and how its metrics can be sent."""
        with self._changed:
            first = "failed" not in self.state
            self.state.add("failed")
        if first:
            warn(
                f"the tracker {self.name} {problem}\n"
                f"training is not affected; {self._folder / METRICS} has every metric, and\n"
                f"`sft sync {self._folder} --trace {self.name}` sends them"
            )
