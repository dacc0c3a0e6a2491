"""The parent of a launcher."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signal")
def test_a_launcher_does_not_die_of_what_asks_the_ranks_to_stop():
    """Schedulers send USR1 to all processes of a job at once, and launchers know nothing of it."""
    asked = "import os, signal; os.kill(os.getpid(), signal.SIGUSR1); print('alive')"
    done = subprocess.run(
        [sys.executable, "-m", "sftcore.runtime.launcher", sys.executable, "-c", asked],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n")
