"""Asking a process to stop by a signal or by max_hours, and what that means for the processes it has started."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from sftcore.runtime import signals
from sftcore.runtime.signal_mask import stop_signals_blocked
from sftcore.runtime.signals import Stopped, handle_stop_signals


@pytest.mark.parametrize("number", signals.STOP_SIGNALS)
def test_a_stop_signal_interrupts_what_is_not_a_step(number):
    with pytest.raises(Stopped, match=number.name), handle_stop_signals({}):
        signal.raise_signal(number)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_stop_signal_in_a_step_takes_effect_at_its_end():
    with handle_stop_signals({}) as stop:
        stop.interruptible = False
        assert stop.reason is None
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)  # the same, by another way
        assert stop.reason == "SIGUSR1"


def test_max_hours_stop_a_run(monkeypatch):
    monkeypatch.setenv(signals.DEADLINE_VARIABLE, "0")  # so that it is gone afterwards
    monkeypatch.delenv(signals.DEADLINE_VARIABLE)
    with handle_stop_signals({}) as stop:
        stop.set_deadline(None)
        stop.set_deadline(0.1 / 3600)
        assert stop.reason is None
        time.sleep(0.15)
        assert stop.reason == "max_hours"


def started(*command: str) -> subprocess.Popen[str]:
    """Start a process, and return it once it has printed that it is on."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "on\n"
    return process


def test_a_second_sigterm_ends_the_process_immediately():
    code = (
        "import time\nfrom sftcore.runtime import signals\nsignals.REPEAT_SECONDS = 0.1\n"
        "with signals.handle_stop_signals({}) as stop:\n    stop.interruptible = False\n    print('on', flush=True)\n"
        "    while stop.reason is None: time.sleep(0.01)\n"
        "    time.sleep(0.2)\n    print('heard', flush=True)\n    time.sleep(60)"
    )
    process = started(sys.executable, "-c", code)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "heard\n"
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM


def test_a_process_that_does_not_react_to_sigterm_is_ended():
    """Like one in a library that waits for other ranks: it never returns to Python."""
    code = (
        "import ctypes\nfrom sftcore.runtime import signals\n"
        "signals._BLOCKED_SECONDS = signals._CLEANUP_SECONDS = 0.2\n"
        "library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)\n"
        "library.pthread_mutex_lock(mutex)\n"
        "with signals.handle_stop_signals({}):\n"
        "    while True:\n        try:\n"
        "            print('on', flush=True)\n            library.pthread_mutex_lock(mutex)\n"
        "        except signals.Stopped:\n            pass"
    )
    process = started(sys.executable, "-c", code)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 75


def forked(function) -> int:
    """The process id of a fork of this process that calls *function*."""
    child = os.fork()
    if not child:
        try:
            function()
        finally:
            os._exit(1)
    return child


def ended(child: int, seconds: float = 10) -> int | None:
    """How a child ended, or None if it did not."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None


def act_as_torch() -> None:
    """Wait, as a process that loads data does: torch has SIGTERM end it, whatever was set before."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(20)


@pytest.mark.parametrize("number", signals.STOP_SIGNALS)
def test_a_signal_to_all_processes_does_not_end_forks(number):
    with handle_stop_signals({}) as stop:
        stop.interruptible = False
        child = forked(act_as_torch)
        time.sleep(0.1)
        os.kill(child, number)
        assert ended(child, 0.3) is None
        os.kill(child, signal.SIGKILL)
        assert ended(child) == -signal.SIGKILL
        assert stop.reason is None


def test_forks_end_with_the_run(tmp_path):
    def run() -> None:
        with handle_stop_signals({}):
            (tmp_path / "pid").write_text(str(forked(lambda: time.sleep(20))))
            os.kill(os.getpid(), signal.SIGKILL)

    assert ended(forked(run)) == -signal.SIGKILL
    child = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.02)
                continue
        break
    else:
        pytest.fail("it lives on")


def test_multiprocessing_can_end_a_process_that_gets_no_signals():
    """As it does at the end of this process, where it then waits for the other one."""
    with handle_stop_signals({}):
        process = multiprocessing.get_context("fork").Process(target=act_as_torch, daemon=True)
        process.start()
        time.sleep(0.1)
        process.terminate()
        process.join(10)
        assert process.exitcode == -signal.SIGKILL


def test_a_fork_of_a_thread_outlives_the_thread():
    children = []
    with handle_stop_signals({}):
        thread = threading.Thread(target=lambda: children.append(forked(lambda: time.sleep(20))))
        thread.start()
        thread.join()
        assert ended(children[0], 0.3) is None
    os.kill(children[0], signal.SIGKILL)
    assert ended(children[0]) == -signal.SIGKILL


def test_a_signal_before_a_run_has_begun_stops_it_when_it_begins():
    before = signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    with stop_signals_blocked():
        signal.raise_signal(signal.SIGUSR2)
        with pytest.raises(Stopped, match="SIGUSR2"), handle_stop_signals({}):
            pytest.fail("it was not stopped")
        signal.raise_signal(signal.SIGUSR2)  # the exit code is known by now
        assert signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # drops it
    signal.signal(signal.SIGUSR2, before)
    for number in signals.STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def test_a_run_under_nohup_does_not_stop_when_its_terminal_is_closed():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handle_stop_signals({}) as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.reason is None
            with stop_signals_blocked():
                assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_process_that_is_started_with_the_signals_blocked_does_not_get_them():
    """Launchers and trackers install handlers, which are never called."""
    code = (
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        "print('on', flush=True)\ntime.sleep(0.3)"
    )
    with stop_signals_blocked():
        process = started(sys.executable, "-c", code)
    for number in signals.STOP_SIGNALS:
        process.send_signal(number)
    assert process.wait(10) == 0
    assert not {*signals.STOP_SIGNALS} & signal.pthread_sigmask(signal.SIG_BLOCK, ())
