"""The processes of a run, and how they agree."""

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

_SEEN_WITHIN = 5.0
"""Seconds within which a shared file system shows to one machine what another wrote."""

_GONE = re.compile(
    r"closed by peer|reset by peer|broken pipe|read error|connection refused|timed out|socket|nccl", re.IGNORECASE
)


class AloneError(Exception):
    """What one rank did has failed, and the others wait where they cannot hear of it."""

    def __init__(self, problem: Exception) -> None:
        super().__init__(str(problem))
        self.problem = problem


class Ranks:
    """A process among those of its run. All of them have to make the same calls, in the same order.

    They agree over a group of their own on the CPU, so that no accelerator has to be waited for.

    Args:
        timeout: seconds that one waits for the others.
    """

    def __init__(self, timeout: float) -> None:
        self._many = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if self._many else 0
        self.size = torch.distributed.get_world_size() if self._many else 1
        self.writes = self.rank == 0
        self._group = None
        if self.size > 1:
            self._group = torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

    def gathered(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value, group=self._group)
        return values

    def any(self, flag: bool) -> bool:
        """Tell whether the flag of any rank is up."""
        if self.size == 1:
            return flag
        up = torch.tensor([int(flag)])
        torch.distributed.all_reduce(up, torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(up.item())

    def agree(self, problem: str | None) -> None:
        """Return where no rank has a problem.

        Raises:
            SftError: on all ranks, with the problem of the first that has one.
        """
        for rank, told in enumerate(self.gathered(problem)):
            if told is not None:
                raise SftError(told if self.size == 1 else f"{told} (rank {rank})")

    def together(
        self, action: Callable[[], T], explain: Callable[[Exception], str], everyone: bool = False
    ) -> T | None:
        """Do *action* on the ranks that write, wait for all, and return what it gave here.

        Args:
            explain: what to tell of an error.
            everyone: do it on all ranks.

        Raises:
            SftError: on all ranks, if it failed on any; on this one alone if that was an :class:`AloneError`: it has to
                end, which the others notice.
        """
        result: T | None = None
        problem: str | None = None
        if everyone or self.writes:
            try:
                result = action()
            except AloneError as error:
                if of_another_rank(error.problem):
                    raise error.problem from None
                raise SftError(_explained(error.problem, explain)) from None
            except Exception as error:  # whatever it is: the others wait, and have to hear of it
                problem = _explained(error, explain)
        self.agree(problem)
        return result

    def share(self, folder: Path) -> None:
        """Find out which ranks write checkpoints in *folder*: the first, or one per node where disks are not shared."""
        if self.size == 1:
            return
        name = self.gathered(f".{uuid.uuid4().hex}.seen")[0]
        local = int(os.environ.get("LOCAL_RANK", self.rank)) == 0
        note = folder / name
        self.together(note.touch, lambda error: f"{folder} cannot be written: {error}")
        until = time.monotonic() + _SEEN_WITHIN
        while local and not (seen := note.exists()) and time.monotonic() < until:
            time.sleep(0.2)
        self.writes = self.rank == 0 or (local and not seen)
        self.gathered(0)
        if self.rank == 0:
            note.unlink()

    @property
    def apart(self) -> bool:
        """Whether the disks of the nodes are not shared; all ranks have to ask."""
        return self.gathered(self.writes).count(True) > 1


def _explained(error: Exception, explain: Callable[[Exception], str]) -> str:
    try:
        return explain(error)
    except Exception:  # as where even the folder is gone
        return f"{type(error).__name__}: {error}"


def of_another_rank(error: BaseException) -> bool:
    """Tell whether *error* says that another rank has ended, or cannot be reached."""
    many = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not many or torch.distributed.get_world_size() == 1:
        return False
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and bool(_GONE.search(str(error)))
    )
