"""The lock of an output folder, which belongs to one run at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sftcore.core.errors import SftError
from sftcore.runtime.file_io import FileLock


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold *folder* for one run as long as the context lasts, where the file system has locks.

    Raises:
        SftError: another run holds it.
    """
    lock = FileLock(folder / ".lock")
    if not lock.acquire(blocking=False):
        raise SftError(f"another run writes into {folder}: wait for its end, or give this run an output_dir of its own")
    try:
        yield
    finally:
        lock.release()
