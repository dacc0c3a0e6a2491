"""What DeepSpeed compiles on a machine, once: by one process at a time, and anew where one was killed while it did."""

from __future__ import annotations

import hashlib
import os
import sys
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

    root = Path(os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(_folder())))
    root.mkdir(parents=True, exist_ok=True)
    with (root / "sftcore.lock").open("a+") as ours:
        fcntl.flock(ours, fcntl.LOCK_EX)  # let go of when this process ends, however it does
        ours.seek(0)
        killed = bool(ours.read())
        ours.truncate(0)
        for lock in root.glob("**/lock"):
            if killed or time.time() - lock.stat().st_mtime > _ALIEN:
                lock.unlink()
        ours.write("compiling")
        ours.flush()
        builder.load()
        ours.truncate(0)


def _folder() -> Path:
    """Return a folder for this environment alone: two that share one compile all anew for each other, in turns."""
    import torch
    from torch.utils.cpp_extension import get_default_build_root

    environment = f"{sys.prefix} {sys.version} {torch.__version__}"
    return Path(get_default_build_root(), f"sftcore-{hashlib.sha256(environment.encode()).hexdigest()[:12]}")
