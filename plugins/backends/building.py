"""What DeepSpeed compiles on a machine, once: by one process at a time, and anew where one was killed while it did."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

_ALIEN = 900.0
"""Seconds after which a lock that no process of sftcore left is taken for one of a process that is gone."""


def build(builder: Any) -> None:
    """Compile and load the extension of *builder*, one of DeepSpeed's.

    torch has a file stand for the process that compiles, and waits for ever where that process was killed.
    """
    import fcntl

    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    root.mkdir(parents=True, exist_ok=True)
    with (root / "sftcore.lock").open("a+") as ours:
        fcntl.flock(ours, fcntl.LOCK_EX)  # let go of when this process ends, however it does
        ours.seek(0)
        killed = bool(ours.read())
        for lock in root.glob("**/lock"):
            if killed or time.time() - lock.stat().st_mtime > _ALIEN:
                lock.unlink()
        ours.write("compiling")
        ours.flush()
        builder.load()
        ours.truncate(0)
