"""Running out of memory: what was used, and what to change."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

from sftcore.runtime.console import format_bytes


def ran_out(error: BaseException) -> bool:
    """Tell whether *error* says that there is no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error).lower() for text in ("can't allocate memory", "not enough memory", "out of memory")
    )


def explain(args: Any, batch: tuple[int, int] | None, max_length: int) -> str:
    """Return what to tell of it.

    Args:
        args: the training arguments.
        batch: rows and tokens per row of the batch that did not fit, if it was one.
        max_length: the longest row there may be, in tokens.
    """
    what = f" with a batch of {batch[0]:,} rows of {batch[1]:,} tokens" if batch else ""
    size, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    mends = []
    if size > 1:
        mends.append(
            f"training_args.per_device_train_batch_size={size // 2} with "
            f"gradient_accumulation_steps={accumulation * size // (size // 2)}, which trains the same"
        )
    if not args.activation_checkpointing:
        mends.append("training_args.activation_checkpointing=true, which costs time")
    mends.append(f"a data.max_length below {max_length:,}")
    mends.append("a method that trains fewer weights, or keeps them in fewer bits")
    return f"out of memory{what}: {_peak(args.device)}; try {'; or '.join(mends)}"


def _peak(device: torch.device) -> str:
    if device.type == "cuda":
        used, there = torch.cuda.max_memory_allocated(device), torch.cuda.mem_get_info(device)[1]
        return f"the peak was {format_bytes(used)} of {format_bytes(there)} on the GPU"
    try:
        import resource
    except ImportError:  # Windows
        return "the peak is not known"
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"the peak was {format_bytes(used)}, and the machine has {format_bytes(there)}"
