"""What runs on the cluster: each worker starts one rank, and all of them speak with the launcher through its desk."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import IO, Any

import ray
from ray import train
from ray.train.backend import Backend, BackendConfig
from ray.train.collective import broadcast_from_rank_zero

from sftcore.launching import LaunchedProcess

LOOK = 0.3
"""Seconds between two looks at the desk."""

LEFT = 5.0
"""Seconds to wait for what a rank has printed; what it started itself, and is still there, may keep its output open."""

_LINUX = ctypes.CDLL(None) if sys.platform == "linux" else None


class Desk:
    """Where workers find what to run and whether to stop, and leave what their ranks print and end with."""

    def __init__(self, argv: list[str], folder: str, environ: Mapping[str, str]) -> None:
        self._work = argv, folder, environ
        self._asked: str | None = None
        self._seen = 0.0
        self._codes: dict[int, int] = {}
        self._printed: list[tuple[int, bytes]] = []

    def begin(self) -> bool:
        """Begin to start all ranks, perhaps anew; tell whether to: not where the user has to mend something."""
        if 2 in self._codes.values():
            return False
        self._codes.clear()
        return True

    def work(self) -> tuple[list[str], str, Mapping[str, str]]:
        """Return the arguments of ``sft``, the folder and the environment of a rank."""
        return self._work

    def stops(self) -> str | None:
        """Return what asks the run to stop, if something does."""
        self._seen = time.monotonic()
        return self._asked

    def print(self, stream: int, text: bytes) -> None:
        """Take what a rank has printed, to 1, its standard output, or 2."""
        self._printed.append((stream, text))

    def end(self, rank: int, code: int) -> None:
        """Take what a rank has ended with."""
        self._codes[rank] = code

    def look(self, asked: str | None) -> tuple[float, list[tuple[int, bytes]], dict[int, int]]:
        """Leave what asks the run to stop.

        Returns:
            Seconds since a worker was here, what the ranks have printed, their exit codes.
        """
        self._asked = asked
        printed, self._printed = self._printed, []
        return time.monotonic() - self._seen, printed, self._codes


class Devices(BackendConfig):  # type: ignore[misc]
    """Workers on one machine see all GPUs that any of them has, as the processes of other launchers do."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Devices


class _Devices(Backend):  # type: ignore[misc]
    share_cuda_visible_devices = True


def work(desk: Any) -> None:
    """Be a worker: start a rank in a process of its own, which is asked to stop as under any launcher.

    Raises:
        RuntimeError: the rank has failed, so that Ray ends the others.
    """
    here = train.get_context()
    rank = here.get_world_rank()
    start, address, port = broadcast_from_rank_zero(
        (ray.get(desk.begin.remote()), *_meeting_point()) if rank == 0 else None
    )
    if not start:
        return
    argv, folder, environ = ray.get(desk.work.remote())
    ranked = {
        "RANK": rank,
        "WORLD_SIZE": here.get_world_size(),
        "LOCAL_RANK": here.get_local_rank(),
        "LOCAL_WORLD_SIZE": here.get_local_world_size(),
        "GROUP_RANK": here.get_node_rank(),
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
    }
    command = [sys.executable, "-m", "sftcore", *argv]
    env = {**os.environ, **environ, **{name: str(number) for name, number in ranked.items()}}
    output: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": _end_with_me}
    with LaunchedProcess(command, env, cwd=folder, **output) as launched:
        streams = enumerate((launched.process.stdout, launched.process.stderr), 1)
        readers = [threading.Thread(target=_hand_on, args=(desk, *stream), daemon=True) for stream in streams]
        for reader in readers:
            reader.start()
        while launched.process.poll() is None:
            if asked := ray.get(desk.stops.remote()):
                launched.request_stop(asked)
            time.sleep(LOOK)
        for reader in readers:
            reader.join(LEFT)
        code = launched.wait()
    ray.get(desk.end.remote(rank, code))
    if code not in (0, 75):
        raise RuntimeError(f"rank {rank} has ended with {code}")


def _meeting_point() -> tuple[str, int]:
    with socket.socket() as free:
        free.bind(("", 0))
        return ray.util.get_node_ip_address(), int(free.getsockname()[1])


def _hand_on(desk: Any, stream: int, pipe: IO[bytes]) -> None:
    while text := os.read(pipe.fileno(), 1 << 16):
        ray.get(desk.print.remote(stream, text))


def _end_with_me() -> None:
    """Have Linux kill this process where its worker ends first, as Ray lets those do whose fellow has failed."""
    if _LINUX:
        _LINUX.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
