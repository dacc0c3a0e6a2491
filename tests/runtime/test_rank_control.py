"""How the parent of a launcher and its ranks communicate, in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sftcore.runtime.rank_control import LAUNCH_FOLDER_VARIABLE, LaunchedProcess
from sftcore.runtime.signals import handle_stop_signals

RANK = """
import os, sys, time
from sftcore.runtime import signals
from sftcore.runtime.rank_control import report_exit
with signals.handle_stop_signals(os.environ) as stop:
    stop.interruptible = False
    print("on", flush=True)
    until = time.time() + 20
    while stop.reason is None and time.time() < until: time.sleep(0.01)
os.environ["RANK"] = "0"
sys.exit(report_exit({code}))
"""


LAUNCHER = (sys.executable, "-m", "sftcore.runtime.parent_process")


def start_launcher(script: str) -> subprocess.Popen[str]:
    """Start a launcher of one rank that runs *script*, and return it once the rank has printed that it is on."""
    process = subprocess.Popen([*LAUNCHER, sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "on\n"
    return process


@pytest.mark.parametrize(("code", "ends"), [(75, 75), (2, 2), (1, 1), (0, 0)])
def test_a_launcher_passes_sigint_on_and_ends_with_the_exit_code_of_its_ranks(code, ends):
    process = start_launcher(RANK.replace("{code}", str(code)))
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == ends


def rank_that_writes(reason: Path) -> str:
    return RANK.replace("sys.exit(report_exit({code}))", f"open({str(reason)!r}, 'w').write(stop.reason)")


def wait_for(reason: Path) -> str:
    until = time.monotonic() + 10
    while not (reason.exists() and reason.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    return reason.read_text()


def test_ranks_stop_after_their_launcher_was_killed(tmp_path):
    process = start_launcher(rank_that_writes(tmp_path / "reason"))
    process.kill()
    assert wait_for(tmp_path / "reason") == "SIGTERM"


def test_a_rank_stops_when_the_folder_of_its_launch_is_removed(tmp_path):
    command = [sys.executable, "-c", rank_that_writes(tmp_path / "reason")]
    with LaunchedProcess(command, stdout=subprocess.PIPE) as launched:
        assert launched.process.stdout.readline() == b"on\n"
        time.sleep(0.5)  # so that it watches the folder
    assert wait_for(tmp_path / "reason") == "SIGTERM"
    assert launched.process.wait(10) == 0


def test_a_folder_that_is_left_of_an_earlier_launch_stops_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv(LAUNCH_FOLDER_VARIABLE, str(tmp_path / "gone"))
    with handle_stop_signals(os.environ) as stop:
        time.sleep(0.5)
        assert stop.reason is None


def test_a_launcher_that_does_not_exist_is_an_error():
    done = subprocess.run(
        [*LAUNCHER, "no-such-launcher"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "the launcher cannot be started: no-such-launcher" in done.stderr
    assert Path("no-such-launcher").exists() is False


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signal")
def test_sigusr1_does_not_end_a_launcher():
    """Schedulers send it to all processes of a job, and launchers do not handle it."""
    asked = "import os, signal; os.kill(os.getpid(), signal.SIGUSR1); print('alive')"
    done = subprocess.run(
        [*LAUNCHER, sys.executable, "-c", asked],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n")
