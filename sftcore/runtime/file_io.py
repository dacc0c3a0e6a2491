"""Files that several processes share: locks, atomic writes, checksums, and fsync."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO
from weakref import WeakSet

from sftcore.core.errors import SftError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_HELD: WeakSet[FileLock] = WeakSet()
"""Locks that this process holds."""

_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of a file system that has no locks, or that does not let the lock file be written."""


class FileLock:
    """An advisory lock between processes; the system releases it when its process ends.

    On a file system that has no locks, or that cannot be written, it is always acquired, and ``works`` is false.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self.works = fcntl is not None

    def acquire(self, *, shared: bool = False, blocking: bool = True) -> bool:
        """Acquire the lock, releasing any that this object holds. Return True if that succeeded.

        Raises:
            OSError: the lock file cannot be opened or locked, although the file system has locks.
        """
        while self.works:
            try:
                if self._file is None:
                    self._file = self._path.open("a+b")  # on NFS a shared lock must be readable, an exclusive writable
                    _HELD.add(self)
                mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
                fcntl.flock(self._file, mode if blocking else mode | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError as error:
                self.release()
                if error.errno not in _NO_LOCKS:
                    raise
                self.works = False
                break
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                    return True
            self.release()  # another process removed the file while this one waited
        return True

    def remove(self) -> None:
        """Remove the lock file and release the lock."""
        self._path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._file is not None:
            self._file.close()
            self._file = None
            _HELD.discard(self)


def _drop_locks() -> None:
    """Close the files of all locks in a forked process: it would hold them for longer than its parent lives."""
    for lock in tuple(_HELD):
        lock.release()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_drop_locks)


def check_no_links(folder: Path, names: Iterable[str]) -> None:
    """Check that none of the files or folders *names* in *folder*, which are to be written, is a symbolic link.

    Raises:
        SftError: some are.
    """
    if links := [name for name in names if (folder / name).is_symlink()]:
        raise SftError(f"{folder}: nothing is written through symbolic links; remove {', '.join(links)}")


def write_atomically(path: Path, text: str) -> None:
    """Write *text* to *path* as UTF-8, so that no process ever reads a part of it.

    Raises:
        OSError: the file cannot be written; what was there before is unchanged.
    """
    staged = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
    except OSError:
        staged.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """SHA-256 of the content of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_xxh3(path: Path) -> str:
    """XXH3 of the content of a file, in hexadecimal: as fast as it can be read."""
    from xxhash import xxh3_128_hexdigest

    if not path.stat().st_size:  # which cannot be mapped
        return xxh3_128_hexdigest(b"")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return xxh3_128_hexdigest(content)


def fsync_file(path: Path) -> None:
    """Flush the content of a file to the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def fsync_folder(folder: Path) -> None:
    """Flush the names of the files in *folder* to the disk; Windows and some network file systems cannot."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
