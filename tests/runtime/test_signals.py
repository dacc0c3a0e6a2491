"""Asking a process to stop by SIGTERM, SIGINT or SIGUSR1, or by max_hours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from sftcore.runtime import signals
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


def test_sigterm_ends_forked_processes():
    with handle_stop_signals({}) as stop:
        stop.interruptible = False
        child = os.fork()
        if not child:
            time.sleep(20)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        assert stop.reason is None
