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


SAYS_ITS_COMMAND = "import sys; print(sys.argv); print(sys.argv, file=sys.stderr)"


def test_a_launcher_that_prints_its_command_line_tells_no_secret():
    """As DeepSpeed's does."""
    words = ["a.api_key=Pelican7Quay", "--hub-token", "Pelican8Quay", "lr=1"]
    command = [*LAUNCHER, sys.executable, "-c", SAYS_ITS_COMMAND, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout == done.stderr == "['-c', 'a.api_key=(redacted)', '--hub-token', '(redacted)', 'lr=1']\n"


def test_a_launcher_imports_nothing_from_the_working_directory(tmp_path):
    for name in ("random", "json", "tempfile", "sftcore"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported from the working directory')\n")
    command = [sys.executable, "-P", *LAUNCHER[1:], sys.executable, "-m", "json.tool", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_signal_to_all_processes_of_a_job_stops_the_ranks_alone():
    """A launcher has handlers of its own, as torchrun and DeepSpeed do."""
    launcher = (
        "import signal, subprocess, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        f"process = subprocess.Popen([sys.executable, '-c', {RANK.replace('{code}', '75')!r}])\n"
        "print(process.pid, flush=True)\nsys.exit(process.wait())"
    )
    process = subprocess.Popen([*LAUNCHER, sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True)
    said = {process.stdout.readline(), process.stdout.readline()}
    [rank] = [int(line) for line in said if line.strip().isdigit()]
    parent = int(Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[1])
    for pid in (rank, parent, process.pid):
        os.kill(pid, signal.SIGTERM)
    assert process.wait(10) == 75


def test_a_second_signal_ends_a_launcher_and_its_ranks_at_once():
    code = (
        "import os, time\nfrom sftcore.runtime import signals\nsignals.REPEAT_SECONDS = 0.1\n"
        "with signals.handle_stop_signals(os.environ) as stop:\n    stop.interruptible = False\n"
        "    print('on', os.getpid(), flush=True)\n    while stop.reason is None: time.sleep(0.01)\n"
        "    print('heard', flush=True)\n    time.sleep(60)"
    )
    parent = "import sys; from sftcore.runtime import parent_process as p; p.REPEAT_SECONDS = 0.1; "
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    command = [sys.executable, "-c", f"{parent}sys.exit(p.launch(sys.argv[1:]))", sys.executable, "-c", launcher]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    rank = int(process.stdout.readline().split()[1])
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "heard\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGKILL
    until = time.monotonic() + 10
    while Path(f"/proc/{rank}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{rank}").exists()


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
