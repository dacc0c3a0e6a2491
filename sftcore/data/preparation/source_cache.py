"""Labelled rows on disk, by the key of what they depend on: complete, or not there.

A source has a folder, named by its key, with shards of :data:`BLOCKS` blocks. A shard counts once its ``.json`` exists,
which is written last, and is then not written again; the folder, once its name does not end in ``.part`` any more.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from xxhash import xxh3_128_hexdigest

from sftcore.core.errors import DataError, SftError
from sftcore.data.preparation.worker import LabelledBlock
from sftcore.data.sources.rejected import to_quarantine_line
from sftcore.data.tables.account import RowTotals
from sftcore.data.tables.table import SCHEMA, Table, read_table
from sftcore.runtime.console import count, format_bytes, status, warn
from sftcore.runtime.file_io import FileLock, file_xxh3, write_atomically
from sftcore.runtime.paths import cache_folder

TABLE, REJECTED = ".arrow", ".rejected"  # suffixes of the files of a shard
BLOCKS = 64  # how many blocks a shard has
TOTALS, ABOUT, PART = "totals.json", "about.json", ".part"
TRIES = 3  # how often rows are prepared that are removed before they can be used
RETRY = 0.01  # seconds before a process checks again, after it checked at the same time as others


@dataclass(frozen=True)
class CachedSource:
    """The labelled rows of one source, complete."""

    folder: Path
    totals: RowTotals
    lock: FileLock | None = None  # keeps others from removing the folder as long as this is in use

    @classmethod
    def open(cls, folder: Path, lock: FileLock | None = None) -> CachedSource | None:
        """The source in *folder*; None if it is not there, or not complete, as after a loss of power."""
        totals = _read_totals(folder / TOTALS)
        try:
            size = sum(file.stat().st_size for file in _shard_files(folder))
        except OSError:
            return None
        return cls(folder, totals, lock) if totals and size == totals.size else None

    def is_intact(self) -> bool:
        """Whether all files are as they were written; checked once in a process."""
        if self.folder not in _INTACT:
            try:
                with ThreadPoolExecutor(_THREADS) as threads:
                    digests = list(threads.map(file_xxh3, _shard_files(self.folder)))
            except OSError:
                return False
            if digests != self.totals.digests:
                return False
            _INTACT.add(self.folder)
        return True

    @cached_property
    def table(self) -> Table:
        """The rows that could be read, mapped into memory."""
        return read_table(sorted(self.folder.glob(f"*{TABLE}")))

    def rejected(self, names: Sequence[str]) -> Iterator[str]:
        """Yield every rejected row as a line of ``quarantine.jsonl``."""
        for path in sorted(self.folder.glob(f"*{REJECTED}")):
            with path.open(encoding="utf-8") as lines:
                yield from (to_quarantine_line(text, names) for text in lines)


_THREADS = 2  # that digest files
_INTACT: set[Path] = set()  # folders whose files this process has digested, or written


def _shard_files(folder: Path) -> list[Path]:
    """The tables and rejected rows of all shards in *folder*, in order."""
    return sorted(file for suffix in (TABLE, REJECTED) for file in folder.glob(f"*{suffix}"))


def _read_totals(path: Path) -> RowTotals | None:
    """The totals in the file *path*; None if it cannot be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return RowTotals(**values) if values.pop(_CHECKSUM) == _checksum(values) else None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


_CHECKSUM = "xxh3"  # the key of the digest of all other values


def _checksum(values: Mapping[str, Any]) -> str:
    return xxh3_128_hexdigest(json.dumps(values).encode())


def _write_totals(path: Path, totals: RowTotals) -> None:
    values = asdict(totals)
    _write_json(path, {**values, _CHECKSUM: _checksum(values)})


def _write_json(path: Path, values: Any) -> None:
    write_atomically(path, json.dumps(values, ensure_ascii=False))


class CacheWriter(ExitStack):
    """Writes the folder of a source whose rows are being labelled; a context manager that closes its files.

    ``totals`` and ``blocks`` are those of the finished shards. *check* is called before a shard is finished, and raises
    if the data has changed.
    """

    def __init__(self, folder: Path, check: Callable[[], None]) -> None:
        super().__init__()
        self.folder, self._check = folder, check
        folder.mkdir(parents=True, exist_ok=True)
        self.totals, self._shard = RowTotals(), RowTotals()
        self._shards = self._written = 0
        while (totals := _read_totals(self._path(".json"))) is not None:
            self.totals.add(totals)
            self._shards += 1
        self.blocks = self._shards * BLOCKS
        self._resumed = bool(self._shards)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if isinstance(error[1], DataError):  # the shards may be of other data
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, suffix: str) -> Path:
        """A file of the shard that is written next."""
        return self.folder / f"{self._shards:05}{suffix}"

    def add(self, block: LabelledBlock) -> None:
        """Write the next block."""
        if not self._written:
            file = self.enter_context(self._path(TABLE).open("wb"))
            self._table = self.enter_context(pa.ipc.new_file(file, SCHEMA))
            self._rejected = self.enter_context(self._path(REJECTED).open("w", encoding="utf-8"))
        self._table.write_batch(block.table)
        self._rejected.writelines(f"{line}\n" for line in block.rejected)
        self._shard.add(block.totals)
        self._written += 1
        if self._written == BLOCKS:
            self._finish_shard()

    def _finish_shard(self) -> None:
        self.close()
        self._check()
        files = [self._path(suffix) for suffix in (TABLE, REJECTED)]
        self._shard.size = sum(file.stat().st_size for file in files)
        self._shard.digests = [file_xxh3(file) for file in files]
        _write_totals(self._path(".json"), self._shard)
        self.totals.add(self._shard)
        self._shards += 1
        self._shard, self._written = RowTotals(), 0

    def finish(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Finish the last shard, and rename all to *folder*; if that is there and complete, it stays."""
        if self._written:
            self._finish_shard()
        self._check()
        _write_json(self.folder / ABOUT, about)
        _write_totals(self.folder / TOTALS, self.totals)
        if not self._resumed:
            _INTACT.add(folder)
        try:
            self.folder.rename(folder)
        except OSError:
            if CachedSource.open(folder):
                shutil.rmtree(self.folder)
            else:
                _remove(folder)
                self.folder.rename(folder)


def _report_damage(folder: Path) -> None:
    warn(f"the prepared data in {folder} is damaged, and is prepared again")


def _remove(folder: Path) -> None:
    """Remove *folder*; it is renamed first, so that no part of it is ever there under its name."""
    removed = folder.with_name(f"{folder.name}.{os.getpid()}.gone")
    folder.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


class Cache:
    """All sources that were labelled on this machine.

    Raises:
        SftError: its folder cannot be created.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder() / "data"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SftError(f"the cache {self.folder} cannot be created: {error.strerror}; set SFTCORE_CACHE") from None

    def get(
        self, key: str, about: Mapping[str, Any], prepare: Callable[[CacheWriter], None], check: Callable[[], None]
    ) -> CachedSource:
        """The source with this *key*; one of all processes prepares it, if it is not cached, and the others wait.

        Args:
            about: its description in a list of the cache.
            prepare: adds all blocks after those that are cached already.
            check: raises if the data has changed since the key was computed.

        Raises:
            SftError: it cannot be written.
        """
        folder = self.folder / key
        lock = FileLock(folder.with_name(f"{key}.lock"))
        try:
            for _ in range(TRIES):
                _wait(lock, about)
                while not (cached := CachedSource.open(folder, lock)) and not lock.acquire(blocking=False):
                    # never wait for it alone: a process that also checked may prepare it, and then keeps a shared lock
                    # for a whole run
                    lock.release()
                    time.sleep(RETRY)
                    _wait(lock, about)
                if cached and not cached.is_intact():
                    _report_damage(folder)
                    with suppress(FileNotFoundError):  # another process has removed it
                        _remove(folder)
                    continue
                if cached:
                    with suppress(OSError):
                        os.utime(folder / ABOUT)
                    return cached
                if not CachedSource.open(folder):
                    if folder.is_dir():
                        _report_damage(folder)
                    # where files cannot be locked, each process prepares its own
                    own = "" if lock.works else f".{platform.node()}-{os.getpid()}"
                    with CacheWriter(folder.with_name(f"{key}{own}{PART}"), check) as writer:
                        prepare(writer)
                        writer.finish(folder, about)
        except OSError as error:
            raise SftError(
                f"the prepared data cannot be written to {self.folder}: {error.strerror or error}; free space with "
                "`sft cache clean`, or set SFTCORE_CACHE"
            ) from None
        raise SftError(f"the prepared data in {folder} was removed again and again; check which program removes it")

    def entries(self) -> list[CacheEntry]:
        """All folders of the cache, the last used first."""
        entries: list[CacheEntry] = []
        for path in self.folder.iterdir():
            with suppress(OSError):  # it may be removed meanwhile
                entries += [CacheEntry.from_folder(path)] if path.is_dir() else []
        return sorted(entries, key=lambda entry: entry.used, reverse=True)

    def remove(self, entry: CacheEntry) -> bool:
        """Remove *entry* if it is certain that no run uses it. Return True if it was removed."""
        name = entry.folder.name.partition(".")[0]
        lock = FileLock(self.folder / f"{name}.lock")
        try:
            if not lock.acquire(blocking=False) or not lock.works:
                return False
            if entry.folder.is_dir():
                _remove(entry.folder)
            lock.remove()
        except OSError:  # of another user
            return False
        return True


def _wait(lock: FileLock, about: Mapping[str, Any]) -> None:
    """Wait until no process prepares the source."""
    if not lock.acquire(shared=True, blocking=False):
        status("data", f"another process is preparing {about.get('source', 'the same data')}; waiting for it")
        lock.acquire(shared=True)


class CacheEntry(NamedTuple):
    """One folder of the cache."""

    folder: Path
    complete: bool
    used: float  # when it was last used, in seconds since 1970
    size: int  # in bytes
    about: Mapping[str, Any]  # its description

    @classmethod
    def from_folder(cls, folder: Path) -> CacheEntry:
        """The entry in *folder*."""
        about: dict[str, Any] = {}
        used = folder.stat().st_mtime
        with suppress(OSError, ValueError, RecursionError):
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            used = (folder / ABOUT).stat().st_mtime
        cached = CachedSource.open(folder)
        if cached:
            about.update(rows=cached.totals.read, tokens=cached.totals.tokens)
        size = 0
        for file in folder.iterdir():
            with suppress(OSError):
                size += file.stat().st_size
        return cls(folder, cached is not None and not folder.suffix, used, size, about)

    def to_json(self) -> dict[str, Any]:
        """The entry as ``--json`` prints it."""
        used = datetime.fromtimestamp(self.used, UTC).isoformat(timespec="seconds")
        return {"key": self.folder.name, "complete": self.complete, "used": used, "bytes": self.size, **self.about}

    def __str__(self) -> str:
        used = datetime.fromtimestamp(self.used).strftime("%Y-%m-%d %H:%M")
        state = f"{count(self.about.get('rows', 0), 'row')}" if self.complete else "unfinished"
        source = self.about.get("source", "")
        return f"{self.folder.name[:12]}  {used}  {format_bytes(self.size):>9}  {state:>16}  {source}"
