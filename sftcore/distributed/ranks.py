"""The ranks of a run: collectives, and actions that succeed or fail on all of them."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed

from sftcore.core.errors import SftError

T = TypeVar("T")

_VISIBLE_WITHIN = 5.0  # seconds in which a shared file system shows a file of one machine to another
_CONNECTION_LOST = re.compile(
    r"closed by peer|reset by peer|broken pipe|read error|connection refused|timed out|socket|nccl", re.IGNORECASE
)


class LocalFailureError(Exception):
    """An action failed on this rank while the others wait in a library, where no error can reach them."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Ranks:
    """The ranks of a run, of which this process is one. All ranks have to make the same calls, in the same order.

    The calls use a gloo group of their own, so that they never wait for an accelerator.

    Args:
        timeout: seconds that a call waits for the other ranks.

    Attributes:
        is_writer: whether this rank writes to a disk: rank 0, or the first of its node (see :meth:`find_writers`).
        separate_disks: whether the nodes do not share a disk.
    """

    def __init__(self, timeout: float) -> None:
        initialized = _is_initialized()
        self.rank = torch.distributed.get_rank() if initialized else 0
        self.size = torch.distributed.get_world_size() if initialized else 1
        self.is_writer, self.separate_disks = self.rank == 0, False
        self._group = None
        if self.size > 1:
            self._group = torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value, group=self._group)
        return values

    def any_rank(self, flag: bool) -> bool:
        """Whether *flag* is true on any rank."""
        if self.size == 1:
            return flag
        flags = torch.tensor([int(flag)])
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(flags.item())

    def run_on_writers(self, action: Callable[[], object], describe: Callable[[Exception], str]) -> None:
        """Run *action* on the ranks that write to a disk, and wait for all; otherwise as :meth:`run_on_all`."""
        self.run_on_all(action if self.is_writer else lambda: None, describe)

    def run_on_all(self, action: Callable[[], object], describe: Callable[[Exception], str]) -> None:
        """Run *action* on every rank, and wait for all.

        Args:
            describe: the message for an error of *action*.

        Raises:
            SftError: *action* failed on any rank; all ranks raise it. If it was a :class:`LocalFailureError`, this rank
                raises it at once, and the others notice that this rank has ended.
        """
        problem: str | None = None
        try:
            action()
        except LocalFailureError as error:
            if caused_by_another_rank(error.cause):
                raise error.cause from None
            raise SftError(_message(error.cause, describe)) from None
        except Exception as error:  # any error: the other ranks wait for this one
            problem = _message(error, describe)
        for rank, message in enumerate(self.gather(problem)):
            if message is not None:
                raise SftError(message if self.size == 1 else f"{message} (rank {rank})")

    def find_writers(self, folder: Path) -> None:
        """Find out which ranks write checkpoints in *folder*: rank 0, or one per node where disks are not shared.

        Raises:
            SftError: *folder* cannot be written.
        """
        if self.size == 1:
            return
        probe = folder / self.gather(f".{uuid.uuid4().hex}.probe")[0]
        first_of_node = int(os.environ.get("LOCAL_RANK", self.rank)) == 0
        self.run_on_writers(probe.touch, lambda error: f"{folder} cannot be written: {error}")
        self.is_writer = self.rank == 0 or (first_of_node and not _appears(probe))
        self.separate_disks = self.gather(self.is_writer).count(True) > 1
        if self.rank == 0:
            probe.unlink()


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + _VISIBLE_WITHIN
    while not (exists := path.exists()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return exists


def _is_initialized() -> bool:
    return bool(torch.distributed.is_available() and torch.distributed.is_initialized())


def _message(error: Exception, describe: Callable[[Exception], str]) -> str:
    try:
        return describe(error)
    except Exception:  # such as a folder that is gone
        return f"{type(error).__name__}: {error}"


def caused_by_another_rank(error: BaseException) -> bool:
    """Whether *error* shows that another rank has ended or cannot be reached."""
    if not _is_initialized() or torch.distributed.get_world_size() == 1:
        return False
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and bool(_CONNECTION_LOST.search(str(error)))
    )
