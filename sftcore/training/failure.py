"""Failures from outside the run: no memory, a full disk, another rank; each becomes one message for the user."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import torch

from sftcore.core.errors import RankError, SftError
from sftcore.distributed.ranks import caused_by_another_rank
from sftcore.runtime.console import first_line, format_bytes, write_error_reason

_DISK_ERRORS = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def to_user_error(
    error: BaseException, args: Any, batch_shape: tuple[int, int] | None, max_length: int
) -> BaseException:
    """*error*, or in its place one that tells the user what happened and what to do.

    Args:
        args: the training arguments.
        batch_shape: rows and tokens per row of the last batch, if there was one.
        max_length: length of the longest row allowed, in tokens.
    """
    out_of_memory = isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY)
    if out_of_memory or isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return SftError(_out_of_memory_message(args, batch_shape, max_length))
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        folder = Path(args.output_dir)
        return SftError(
            f"{error.filename or folder} cannot be written: {write_error_reason(folder, error)}. "
            "--resume auto resumes from the last checkpoint"
        )
    if caused_by_another_rank(error):
        return RankError(
            "another rank has ended or cannot be reached: its messages, or the system's log, show why (killed, or out "
            "of memory?); --resume auto resumes from the last checkpoint. This rank noticed it by: "
            f"{first_line(error)[:200]}"
        )
    return error


def _out_of_memory_message(args: Any, batch_shape: tuple[int, int] | None, max_length: int) -> str:
    batch = f" with a batch of {batch_shape[0]:,} rows of {batch_shape[1]:,} tokens" if batch_shape else ""
    size, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    fixes = []
    if size > 1:
        fixes.append(
            f"training_args.per_device_train_batch_size={size // 2} with "
            f"gradient_accumulation_steps={accumulation * size // (size // 2)}, which trains the same"
        )
    if not args.activation_checkpointing:
        fixes.append("training_args.activation_checkpointing=true, which costs time")
    fixes.append(f"a data.max_length below {max_length:,}")
    fixes.append("a method that trains fewer weights, or keeps them in fewer bits")
    return f"out of memory{batch}: {_peak(args.device)}; try {'; or '.join(fixes)}"


def _peak(device: torch.device) -> str:
    if device.type == "cuda":
        peak, total = torch.cuda.max_memory_allocated(device), torch.cuda.mem_get_info(device)[1]
        return f"the peak was {format_bytes(peak)} of {format_bytes(total)} on the GPU"
    try:
        import resource
    except ImportError:  # Windows
        return "the peak is not known"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"the peak was {format_bytes(peak)}, and the machine has {format_bytes(total)}"
