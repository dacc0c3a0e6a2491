"""A run of ``sft`` as users start it, in processes of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.nursery import die_with_parent


class SftProcess:
    """A run in a folder with its configuration."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.folder = folder
        self._log = folder / "log.txt"
        command = [sys.executable, "-m", "sftcore", "run", "--config", "finetune.yaml", *args]
        with self._log.open("a") as log:
            env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=log, stderr=log, env=env, preexec_fn=die_with_parent
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str, after: str = "") -> None:
        """Wait until the run has printed *text*, after the text *after*."""
        while text not in (self.output.partition(after)[2] if after else self.output):
            assert self.process.poll() is None, self.output
            time.sleep(0.1)

    def check_restart_after_kill(self, text: str) -> None:
        """Kill a rank once the run has printed *text*; when all ranks were restarted and train, stop the run."""
        self.wait_for(text)
        os.kill(self.ranks()["1"], signal.SIGKILL)
        self.wait_for("    resume  out/checkpoint-")
        self.wait_for(" step ", after="    resume  out/checkpoint-")
        self.process.terminate()
        assert self.process.wait() == 75, self.output

    def signal_all(self, number: int) -> int:
        """Send a signal to all processes of the run, as schedulers and systemd do; how many there are."""
        children: dict[int, list[int]] = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(process.name))
        found = [self.process.pid]
        for pid in found:
            found += children.get(pid, [])
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(found)

    def launcher(self) -> int:
        """Process id of the launcher."""
        [child] = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(child)

    def ranks(self) -> dict[str, int]:
        """Process ids by rank."""
        pids = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "cwd").readlink() == self.folder and b"\0sftcore\0run\0" in (
                    process / "cmdline"
                ).read_bytes():
                    words = (process / "environ").read_bytes().decode().split("\0")
                    pids |= {word[5:]: int(process.name) for word in words if word.startswith("RANK=")}
        return pids
