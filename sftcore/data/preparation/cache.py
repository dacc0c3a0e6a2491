"""Labelled rows on the disk, by the key of what they are made from: written whole, or not at all.

A source has a folder, named by its key. While it is made the name ends in ``.part``; it holds shards of
:data:`BLOCKS` blocks each, which stay there if the process ends, and are not made again. A shard counts once its
``.json`` is there, which is written last; the folder, once it is renamed, which is done last of all.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa

from sftcore.core.errors import DataError, SftError
from sftcore.data.preparation.worker import Done
from sftcore.data.row_types import Origin
from sftcore.data.sources.rejected import SHOWN, Refusal, as_json, kind_of
from sftcore.data.tables.table import SCHEMA, Table, read_table
from sftcore.runtime.console import count, format_bytes, status
from sftcore.runtime.files import FileLock
from sftcore.runtime.paths import cache_folder

SHARD = (".arrow", ".refused")
"""Endings of the files of a shard."""

BLOCKS = 64
"""How many blocks a shard has."""

TOTALS, ABOUT, PART = "totals.json", "about.json", ".part"

KINDS, OTHERS = 200, "other reasons"
"""How many kinds of reasons are counted apart, and how the rest is called."""

Bad = tuple[int, int, str]
"""A row that is refused: the number of its file, its line, and the reason."""


@dataclass
class Totals:
    """What became of rows, in numbers."""

    read: int = 0
    """Rows that were read."""
    tokens: int = 0
    """Tokens of their examples."""
    bad: dict[str, int] = field(default_factory=dict)
    """Rows that could not be read, by kind of reason."""
    first_bad: list[Bad] = field(default_factory=list)
    """The first of them, in order."""
    unlabelled: dict[str, int] = field(default_factory=dict)
    """Rows that cannot be labelled, by kind of reason."""
    first_unlabelled: list[Bad] = field(default_factory=list)
    """The first of them, in order."""
    seen: list[str] = field(default_factory=list)
    """Columns that rows had."""
    size: int = 0
    """Bytes of the tables, and of the rows that were refused."""

    def add(self, other: Totals) -> None:
        """Add what became of further rows."""
        self.read += other.read
        self.tokens += other.tokens
        _count(self.bad, other.bad)
        self.first_bad = [*self.first_bad, *other.first_bad][:SHOWN]
        _count(self.unlabelled, other.unlabelled)
        self.first_unlabelled = [*self.first_unlabelled, *other.first_unlabelled][:SHOWN]
        self.seen = list(dict.fromkeys([*self.seen, *other.seen]))
        self.size += other.size

    @classmethod
    def of(cls, done: Done) -> Totals:
        """Return what became of a block."""
        return cls(
            read=done.read,
            tokens=done.tokens,
            bad=_kinds(done.bad),
            first_bad=_first(done.bad, done.file),
            unlabelled=_kinds(done.unlabelled),
            first_unlabelled=_first(done.unlabelled, done.file),
            seen=done.seen,
        )


def _count(kinds: dict[str, int], more: Mapping[str, int]) -> None:
    """Add *more* to the numbers by kind; of too many kinds the rest is counted together."""
    for kind, rows in more.items():
        known = kind if kind in kinds or len(kinds) < KINDS else OTHERS
        kinds[known] = kinds.get(known, 0) + rows


def _kinds(refused: Sequence[Refusal]) -> dict[str, int]:
    return dict(Counter(kind_of(refusal.reason) for refusal in refused))


def _first(refused: Sequence[Refusal], file: int) -> list[Bad]:
    return [(file, refusal.origin.line, refusal.reason) for refusal in refused[:SHOWN]]


def named(first: Sequence[Bad], names: Sequence[str]) -> list[Refusal]:
    """Return what is in *first* with the *names* of the files."""
    return [Refusal(Origin(names[file], line), reason) for file, line, reason in first]


@dataclass(frozen=True)
class Stored:
    """The labelled rows of one source, whole.

    Attributes:
        folder: where they are.
        totals: what became of all rows that were read.
        lock: keeps others from removing them as long as this is in use.
    """

    folder: Path
    totals: Totals
    lock: FileLock | None = None

    @classmethod
    def open(cls, folder: Path, lock: FileLock | None = None) -> Stored | None:
        """Return what is in *folder*; None if it is not there, or not whole, as after a loss of power."""
        try:
            totals = _totals(folder / TOTALS)
            size = sum(file.stat().st_size for ending in SHARD for file in folder.glob(f"*{ending}"))
        except (OSError, ValueError, TypeError):
            return None
        return cls(folder, totals, lock) if size == totals.size else None

    @cached_property
    def table(self) -> Table:
        """The rows that could be read, mapped into memory."""
        return read_table(sorted(self.folder.glob("*.arrow")))

    def refused(self, names: Sequence[str]) -> Iterator[str]:
        """Yield every row that was refused, as a line of ``quarantine.jsonl``."""
        for path in sorted(self.folder.glob("*.refused")):
            with path.open(encoding="utf-8") as lines:
                yield from (quarantined(text, names) for text in lines)


def quarantined(text: str, names: Sequence[str]) -> str:
    """Return a line of ``Done.lines`` as one of ``quarantine.jsonl``, with the names of the files."""
    file, line, content = text.split(" ", 2)
    return f'{{"source": {as_json(f"{names[int(file)]}:{line}")}, {content[1:]}'


def _totals(path: Path) -> Totals:
    return Totals(**json.loads(path.read_text(encoding="utf-8")))


class Part:
    """The folder of a source whose rows are being labelled; a context.

    Args:
        check: is called before a shard is finished; raises if what it was made from has changed.

    Attributes:
        totals: what became of the rows of the finished shards.
        blocks: how many blocks are in these.
    """

    def __init__(self, folder: Path, check: Callable[[], None]) -> None:
        self.folder = folder
        self._check = check
        folder.mkdir(parents=True, exist_ok=True)
        self.totals = Totals()
        self._shards = 0
        while (shard := self._read(self._shards)) is not None:
            self.totals.add(shard)
            self._shards += 1
        self.blocks = self._shards * BLOCKS
        self._shard = Totals()
        self._open: tuple[IO[Any], Any, IO[str]] | None = None
        self._written = 0

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *error: object) -> None:
        if self._open:
            for file in (self._open[1], self._open[0], self._open[2]):
                file.close()

    def _path(self, ending: str, shard: int | None = None) -> Path:
        return self.folder / f"{self._shards if shard is None else shard:05}{ending}"

    def _read(self, shard: int) -> Totals | None:
        """Return what became of the rows of a finished shard; None if there is none of this number."""
        try:
            return _totals(self._path(".json", shard))
        except (OSError, ValueError, TypeError):
            return None

    def add(self, done: Done) -> None:
        """Add the next block."""
        assert done.table is not None
        if self._open is None:
            file = self._path(".arrow").open("wb")
            self._open = file, pa.ipc.new_file(file, SCHEMA), self._path(".refused").open("w", encoding="utf-8")
            self._shard, self._written = Totals(), 0
        self._open[1].write_batch(done.table)
        self._open[2].writelines(f"{line}\n" for line in done.lines)
        self._shard.add(Totals.of(done))
        self._written += 1
        if self._written == BLOCKS:
            self._close()

    def _close(self) -> None:
        """Finish a shard."""
        self.__exit__()
        self._open = None
        self._check()
        self._shard.size = sum(self._path(ending).stat().st_size for ending in SHARD)
        _write(self._path(".json"), asdict(self._shard))
        self.totals.add(self._shard)
        self._shards += 1

    def finish(self, folder: Path) -> None:
        """Finish the last shard, and rename all to *folder*; if a whole one is there already, it stays."""
        if self._open:
            self._close()
        _write(self.folder / TOTALS, asdict(self.totals))
        try:
            self.folder.rename(folder)
        except OSError:
            if Stored.open(folder):
                shutil.rmtree(self.folder)
            else:
                _remove(folder)
                self.folder.rename(folder)


def _remove(folder: Path) -> None:
    """Remove *folder*; it is never there in parts under its name."""
    gone = folder.with_name(f"{folder.name}.{os.getpid()}.gone")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _write(path: Path, values: Any) -> None:
    """Write *values* as JSON, whole or not at all."""
    staged = path.with_name(f"{path.name}.new")
    staged.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    staged.replace(path)


TRIES = 3
"""How often rows are made that are gone before they can be used."""

LOOK = 0.01
"""Seconds until who looked at the same time as others looks again."""


class Cache:
    """All sources that were ever labelled here.

    Raises:
        SftError: its folder cannot be made.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder() / "data"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SftError(f"the cache {self.folder} cannot be made: {error.strerror}; set SFTCORE_CACHE") from None

    def find(self, key: str) -> Stored | None:
        """Return what is stored under *key*; None if it is not there."""
        return Stored.open(self.folder / key)

    def get(
        self, key: str, about: Mapping[str, Any], make: Callable[[Part], None], check: Callable[[], None]
    ) -> Stored:
        """Return what is stored under *key*; if it is not there, *make* it.

        Of several processes one makes it, and the others wait. Nobody removes it as long as the answer is in use.

        Args:
            about: what a list of the cache says of it.
            make: adds all blocks after those that are there already.
            check: raises if what they are made from has changed since the key was.

        Raises:
            SftError: it cannot be written.
        """
        folder = self.folder / key
        lock = FileLock(folder.with_name(f"{key}.lock"))
        try:
            for _ in range(TRIES):
                self._wait(lock, about)
                while not (stored := Stored.open(folder, lock)) and not lock.acquire(blocking=False):
                    # never wait for it alone: one that looked too may make it, and then holds on to it for a whole run
                    lock.release()
                    time.sleep(LOOK)
                    self._wait(lock, about)
                if stored:
                    with contextlib.suppress(OSError):
                        os.utime(folder / ABOUT)
                    return stored
                if not Stored.open(folder):
                    self._make(folder, lock, about, make, check)
        except OSError as error:
            raise SftError(
                f"the prepared data cannot be kept in {self.folder}: {error.strerror or error}; make room with "
                "`sft cache clean`, or set SFTCORE_CACHE"
            ) from None
        raise SftError(f"the prepared data in {folder} is gone again and again; who removes it?")

    def _wait(self, lock: FileLock, about: Mapping[str, Any]) -> None:
        """Wait until nobody makes it."""
        if not lock.acquire(shared=True, blocking=False):
            status("data", f"another process prepares {about.get('source', 'the same')}; waiting for it")
            lock.acquire(shared=True)

    def _make(
        self,
        folder: Path,
        lock: FileLock,
        about: Mapping[str, Any],
        make: Callable[[Part], None],
        check: Callable[[], None],
    ) -> None:
        # where files cannot be locked, each process makes its own
        part = folder.with_name(folder.name + ("" if lock.works else f".{platform.node()}-{os.getpid()}") + PART)
        try:
            with Part(part, check) as begun:
                make(begun)
                check()
                _write(part / ABOUT, about)
                begun.finish(folder)
        except DataError:  # what is there may be of other data
            shutil.rmtree(part, ignore_errors=True)
            raise

    def items(self) -> list[Item]:
        """Return everything in the cache, the last used first."""
        found: list[Item] = []
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):  # it may be gone meanwhile
                found += [Item.of(path)] if path.is_dir() else []
        return sorted(found, key=lambda item: item.used, reverse=True)

    def remove(self, item: Item) -> bool:
        """Remove *item*; tell whether that was possible: no run uses it, and it is known that none does."""
        name = item.folder.name.partition(".")[0]
        lock = FileLock(self.folder / f"{name}.lock")
        try:
            if not lock.acquire(blocking=False) or not lock.works:
                return False
            if item.folder.is_dir():
                _remove(item.folder)
            lock.remove()
        except OSError:  # of another user
            return False
        return True


class Item(NamedTuple):
    """One folder of the cache.

    Attributes:
        whole: whether it is finished.
        used: when it was last used, in seconds since 1970.
        size: in bytes.
        about: what is known of it.
    """

    folder: Path
    whole: bool
    used: float
    size: int
    about: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path) -> Item:
        """Return what is in *folder*."""
        about: dict[str, Any] = {}
        used = folder.stat().st_mtime
        with contextlib.suppress(OSError, ValueError):
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            used = (folder / ABOUT).stat().st_mtime
        stored = Stored.open(folder)
        if stored:
            about.update(rows=stored.totals.read, tokens=stored.totals.tokens)
        size = 0
        for file in folder.iterdir():
            with contextlib.suppress(OSError):
                size += file.stat().st_size
        return cls(folder, stored is not None and not folder.suffix, used, size, about)

    def listed(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        used = datetime.fromtimestamp(self.used, UTC).isoformat(timespec="seconds")
        return {"key": self.folder.name, "whole": self.whole, "used": used, "bytes": self.size, **self.about}

    def __str__(self) -> str:
        used = datetime.fromtimestamp(self.used).strftime("%Y-%m-%d %H:%M")
        state = f"{count(self.about.get('rows', 0), 'row')}" if self.whole else "unfinished"
        source = self.about.get("source", "")
        return f"{self.folder.name[:12]}  {used}  {format_bytes(self.size):>9}  {state:>16}  {source}"
