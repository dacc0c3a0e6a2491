"""Running out of memory: the measured peak, and what to change."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

from sftcore.runtime.console import format_bytes

_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether *error* says that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _MESSAGES)


def out_of_memory_message(args: Any, batch_shape: tuple[int, int] | None, max_length: int) -> str:
    """The message for a run that is out of memory.

    Args:
        args: the training arguments.
        batch_shape: rows and tokens per row of the batch that did not fit, if it was a batch.
        max_length: length of the longest row allowed, in tokens.
    """
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
