"""A run of ``sft`` as users start it, in processes of its own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def end_with_parent() -> None:
    """Have this process killed when its parent ends: a test that fails leaves nobody behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Running:
    """Such a run, in a folder with its configuration."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.folder = folder
        self._log = folder / "log.txt"
        command = [sys.executable, "-m", "sftcore", "run", "--config", "finetune.yaml", *args]
        with self._log.open("a") as log:
            env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=log, stderr=log, env=env, preexec_fn=end_with_parent
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def until(self, said: str, after: str = "") -> None:
        """Wait until the run has said this, after that."""
        while said not in (self.said.partition(after)[2] if after else self.said):
            assert self.process.poll() is None, self.said
            time.sleep(0.1)

    def is_begun_anew(self, at: str) -> None:
        """Kill a rank once the run has said this; when all were started anew and train on, ask the run to stop."""
        self.until(at)
        os.kill(self.ranks()["1"], signal.SIGKILL)
        self.until("    resume  out/checkpoint-")
        self.until(" step ", after="    resume  out/checkpoint-")
        self.process.terminate()
        assert self.process.wait() == 75, self.said

    def launcher(self) -> int:
        """Return the process id of the launcher."""
        [child] = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(child)

    def ranks(self) -> dict[str, int]:
        """Return the process ids of the ranks."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "cwd").readlink() == self.folder and b"\0sftcore\0run\0" in (
                    process / "cmdline"
                ).read_bytes():
                    words = (process / "environ").read_bytes().decode().split("\0")
                    found |= {word[5:]: int(process.name) for word in words if word.startswith("RANK=")}
        return found
