"""An output folder belongs to one run at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sftcore.core.errors import SftError

NAME = ".lock"
"""The file in the folder that a run keeps locked; the system unlocks it when the run has ended, however it ends."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold *folder* as long as the context lasts, where the file system has locks.

    Raises:
        SftError: another run holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / NAME).open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SftError(
                f"another run writes into {folder}: wait for its end, or give this one an output_dir of its own"
            ) from None
        except OSError:  # no locks there
            pass
        yield
