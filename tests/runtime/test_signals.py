"""Asking a run to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sftcore.runtime import signals
from sftcore.runtime.signals import Stopped, listening


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_ends_what_is_no_step(number):
    with pytest.raises(Stopped, match=number.name), listening({}):
        signal.raise_signal(number)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_in_a_step_is_kept_for_its_end():
    with listening({}) as stop:
        stop.at_once = False
        assert stop.asked is None
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)  # the same, by another way
        assert stop.asked == "SIGUSR1"


def test_time_can_be_over(monkeypatch):
    monkeypatch.setenv(signals.DEADLINE, "0")  # so that it is gone afterwards
    monkeypatch.delenv(signals.DEADLINE)
    with listening({}) as stop:
        stop.after(None)
        stop.after(0.1 / 3600)
        assert stop.asked is None
        time.sleep(0.15)
        assert stop.asked == "max_hours"


def started(*command: str) -> subprocess.Popen[str]:
    """Start a process, and return it when it says that it is on."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "on\n"
    return process


def test_a_second_signal_ends_the_process_at_once():
    code = (
        "import time\nfrom sftcore.runtime import signals\nsignals.SAME = 0.1\n"
        "with signals.listening({}) as stop:\n    stop.at_once = False\n    print('on', flush=True)\n"
        "    while stop.asked is None: time.sleep(0.01)\n"
        "    time.sleep(0.2)\n    print('heard', flush=True)\n    time.sleep(60)"
    )
    process = started(sys.executable, "-c", code)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "heard\n"
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM


def test_a_process_that_does_not_hear_of_it_is_ended():
    """As one in a library that waits for other ranks: it never comes back to Python."""
    code = (
        "import ctypes\nfrom sftcore.runtime import signals\nsignals._BLOCKED = signals._SLOW = 0.2\n"
        "library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)\n"
        "library.pthread_mutex_lock(mutex)\n"
        "with signals.listening({}):\n"
        "    while True:\n        try:\n"
        "            print('on', flush=True)\n            library.pthread_mutex_lock(mutex)\n"
        "        except signals.Stopped:\n            pass"
    )
    process = started(sys.executable, "-c", code)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 75


def test_forked_processes_do_not_listen():
    with listening({}) as stop:
        stop.at_once = False
        child = os.fork()
        if not child:
            time.sleep(20)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        assert stop.asked is None


RANK = """
import os, sys, time
from sftcore.runtime import signals
from sftcore.runtime.signals import told
with signals.listening(os.environ) as stop:
    stop.at_once = False
    print("on", flush=True)
    until = time.time() + 20
    while stop.asked is None and time.time() < until: time.sleep(0.01)
os.environ["RANK"] = "0"
sys.exit(told({code}, os.environ))
"""


def launched(script: str) -> subprocess.Popen[str]:
    return started(sys.executable, "-m", "sftcore.runtime.launcher", sys.executable, "-c", script)


@pytest.mark.parametrize(("code", "ends"), [(75, 75), (2, 2), (1, 1), (0, 0)])
def test_a_launcher_asks_its_ranks_and_ends_as_they_do(code, ends):
    process = launched(RANK.replace("{code}", str(code)))
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == ends


def test_ranks_whose_launcher_is_gone_stop(tmp_path):
    done = tmp_path / "done"
    process = launched(
        RANK.replace("sys.exit(told({code}, os.environ))", f"open({str(done)!r}, 'w').write(stop.asked)")
    )
    process.kill()
    until = time.monotonic() + 10
    while not (done.exists() and done.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    assert done.read_text() == "SIGTERM"


def test_a_launcher_that_is_not_there_is_told():
    done = subprocess.run(
        [sys.executable, "-m", "sftcore.runtime.launcher", "no-such-launcher"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "the launcher cannot be started: no-such-launcher" in done.stderr
    assert Path("no-such-launcher").exists() is False
