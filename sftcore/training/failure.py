"""Failures from outside the run: a full disk, no memory, another rank; each becomes one message for the user."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

from sftcore.core.errors import RankError, SftError
from sftcore.distributed.ranks import caused_by_another_rank
from sftcore.runtime.console import write_error_reason
from sftcore.training.out_of_memory import is_out_of_memory

_DISK_ERRORS = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}


def to_user_error(error: BaseException, folder: Path, memory_message: Callable[[], str]) -> BaseException:
    """*error*, or in its place one that tells the user what happened and what to do.

    Args:
        folder: the output folder.
        memory_message: the message for a run that is out of memory.
    """
    if is_out_of_memory(error):
        return SftError(memory_message())
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return SftError(
            f"{error.filename or folder} cannot be written: {write_error_reason(folder, error)}. "
            "--resume auto resumes from the last checkpoint"
        )
    if caused_by_another_rank(error):
        first_line = next(iter(str(error).splitlines()), "")[:200]
        return RankError(
            "another rank has ended or cannot be reached: its messages, or the system's log, show why (killed, or out "
            f"of memory?); --resume auto resumes from the last checkpoint. This rank noticed it by: {first_line}"
        )
    return error
