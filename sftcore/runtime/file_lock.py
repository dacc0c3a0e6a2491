"""A lock between processes, by a file."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NOT_HERE = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of a file system that has no locks, or no place for their file."""


class Lock:
    """A lock between processes, held as long as this object is in use.

    On a file system that has no locks, or that cannot be written, everything is allowed, and ``works`` is false.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self.works = fcntl is not None

    def take(self, shared: bool = False, wait: bool = True) -> bool:
        """Take the lock, in place of what is held of it; tell whether it was free.

        Raises:
            OSError: the file system refuses for another reason than that it has no locks.
        """
        while self.works:
            try:
                if self._file is None:
                    self._file = self._path.open("a+b")  # NFS locks what may be read, or written, only if it may
                fcntl.flock(self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                return False
            except OSError as error:
                self.give_back()
                if error.errno not in NOT_HERE:
                    raise
                self.works = False
                break
            if self._is_there():
                return True
            self.give_back()  # it was removed while we waited
        return True

    def _is_there(self) -> bool:
        assert self._file is not None
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Give the lock back, and remove its file."""
        self._path.unlink(missing_ok=True)
        self.give_back()

    def give_back(self) -> None:
        """Hold nothing of the lock any more."""
        if self._file is not None:
            self._file.close()
            self._file = None
