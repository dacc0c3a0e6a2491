"""The part on the cluster: each worker starts one rank, and exchanges messages with the launcher in a mailbox."""

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

from sftcore.launching import STOPPED_EXIT_CODE, LaunchedProcess

POLL_SECONDS = 0.3

_OUTPUT_SECONDS = 5.0
"""How long to wait for the end of a rank's output; processes that it started itself may keep it open."""

_LINUX = ctypes.CDLL(None) if sys.platform == "linux" else None


class Mailbox:
    """An actor through which launcher and workers communicate.

    Workers get the command and requests to stop, and leave the output and exit codes of their ranks.
    """

    def __init__(self, argv: list[str], folder: str, environ: Mapping[str, str]) -> None:
        self._command = argv, folder, environ
        self._stop_reason: str | None = None
        self._last_poll = 0.0
        self._codes: dict[int, int] = {}
        self._output: list[tuple[int, bytes]] = []

    def begin_attempt(self) -> bool:
        """Whether to start all ranks, for the first time or again; not if a rank ended with an error of the user."""
        if 2 in self._codes.values():
            return False
        self._codes.clear()
        return True

    def command(self) -> tuple[list[str], str, Mapping[str, str]]:
        """Return the arguments of ``sft``, the folder and the environment of a rank."""
        return self._command

    def stop_reason(self) -> str | None:
        """Return the signal that asks the run to stop, or None; workers poll it."""
        self._last_poll = time.monotonic()
        return self._stop_reason

    def add_output(self, stream: int, text: bytes) -> None:
        """Add output of a rank; *stream* is 1 for standard output, 2 for standard error."""
        self._output.append((stream, text))

    def set_exit_code(self, rank: int, code: int) -> None:
        """Set the exit code of a rank."""
        self._codes[rank] = code

    def exchange(self, stop_reason: str | None) -> tuple[float, list[tuple[int, bytes]], dict[int, int]]:
        """Set what asks the run to stop, and take the news of the ranks.

        Returns:
            Seconds since a worker last polled, new output of the ranks, and exit codes by rank.
        """
        self._stop_reason = stop_reason
        output, self._output = self._output, []
        return time.monotonic() - self._last_poll, output, self._codes


class Devices(BackendConfig):  # type: ignore[misc]
    """Lets all workers of a machine see the GPUs of all of them, as the processes of other launchers do."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Devices


class _Devices(Backend):  # type: ignore[misc]
    share_cuda_visible_devices = True


def run_rank(mailbox: Any) -> None:
    """Start a rank in a process of its own and wait for it; the training function of Ray Train.

    Raises:
        RuntimeError: the rank failed, so that Ray stops the others.
    """
    context = train.get_context()
    rank = context.get_world_rank()
    start, address, port = broadcast_from_rank_zero(
        (ray.get(mailbox.begin_attempt.remote()), *_rendezvous()) if rank == 0 else None
    )
    if not start:
        return
    argv, folder, environ = ray.get(mailbox.command.remote())
    variables = {
        "RANK": rank,
        "WORLD_SIZE": context.get_world_size(),
        "LOCAL_RANK": context.get_local_rank(),
        "LOCAL_WORLD_SIZE": context.get_local_world_size(),
        "GROUP_RANK": context.get_node_rank(),
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
    }
    command = [sys.executable, "-m", "sftcore", *argv]
    env = {**os.environ, **environ, **{name: str(value) for name, value in variables.items()}}
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": _end_with_parent}
    with LaunchedProcess(command, env, cwd=folder, **options) as launched:
        streams = enumerate((launched.process.stdout, launched.process.stderr), 1)
        readers = [threading.Thread(target=_forward, args=(mailbox, *stream), daemon=True) for stream in streams]
        for reader in readers:
            reader.start()
        while launched.process.poll() is None:
            if reason := ray.get(mailbox.stop_reason.remote()):
                launched.request_stop(reason)
            time.sleep(POLL_SECONDS)
        for reader in readers:
            reader.join(_OUTPUT_SECONDS)
        code = launched.wait()
    ray.get(mailbox.set_exit_code.remote(rank, code))
    if code not in (0, STOPPED_EXIT_CODE):
        raise RuntimeError(f"rank {rank} ended with exit code {code}")


def _rendezvous() -> tuple[str, int]:
    """Return the address of this machine and a free port."""
    with socket.socket() as free:
        free.bind(("", 0))
        return ray.util.get_node_ip_address(), int(free.getsockname()[1])


def _forward(mailbox: Any, stream: int, pipe: IO[bytes]) -> None:
    while text := os.read(pipe.fileno(), 1 << 16):
        ray.get(mailbox.add_output.remote(stream, text))


def _end_with_parent() -> None:
    """Have Linux kill the rank if its worker ends first; Ray kills the workers when another one has failed."""
    if _LINUX:
        _LINUX.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
