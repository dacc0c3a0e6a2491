"""What ends a run from outside: a full disk, memory, or another rank; each told in one message."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

from sftcore.core.errors import RankError, SftError
from sftcore.distributed.ranks import of_another_rank
from sftcore.runtime.console import write_error_reason
from sftcore.training.out_of_memory import ran_out

_DISK = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}


def explained(error: BaseException, folder: Path, out_of_memory: Callable[[], str]) -> BaseException:
    """Return *error*, or in its place one that says what happened, and what to do.

    Args:
        folder: where the run writes.
        out_of_memory: says what to do where memory is short.
    """
    if ran_out(error):
        return SftError(out_of_memory())
    if isinstance(error, OSError) and error.errno in _DISK:
        return SftError(
            f"{error.filename or folder} cannot be written: {write_error_reason(folder, error)}. "
            "--resume auto goes on from the last checkpoint"
        )
    if of_another_rank(error):
        return RankError(
            "another rank has ended, or cannot be reached: what it said, or the system's log, tells why (killed, or "
            "out of memory?); --resume auto goes on from the last checkpoint. Here it was noticed by: "
            f"{_first(str(error))}"
        )
    return error


def _first(text: str) -> str:
    return text.splitlines()[0][:200] if text else ""
