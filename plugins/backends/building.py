"""Compile DeepSpeed's extensions: by one process at a time, and again where a process was killed meanwhile."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

_STALE = 900.0
"""Seconds after which a lock of a process that is not ours is considered stale."""


def build(builder: Any) -> None:
    """Compile and load the extension of *builder*, a DeepSpeed ``OpBuilder``.

    torch locks the folder with a plain file, and waits forever if the process that compiled was killed.
    """
    import fcntl

    root = Path(os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(_folder())))
    root.mkdir(parents=True, exist_ok=True)
    with (root / "sftcore.lock").open("a+") as ours:
        fcntl.flock(ours, fcntl.LOCK_EX)  # released when this process ends in any way
        ours.seek(0)
        killed = bool(ours.read())
        ours.truncate(0)
        for lock in root.glob("**/lock"):
            if killed or time.time() - lock.stat().st_mtime > _STALE:
                lock.unlink()
        ours.write("compiling")
        ours.flush()
        builder.load()
        ours.truncate(0)


def _folder() -> Path:
    """Return a folder for this environment alone; environments that share one recompile for each other."""
    import torch
    from torch.utils.cpp_extension import get_default_build_root

    environment = f"{sys.prefix} {sys.version} {torch.__version__}"
    return Path(get_default_build_root(), f"sftcore-{hashlib.sha256(environment.encode()).hexdigest()[:12]}")
