"""The rows of a source as they are read: from files, or from a hub dataset."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

from sftcore.config.document import Document
from sftcore.config.schema import SourceConfig
from sftcore.core.errors import DataError, nearest
from sftcore.data.row_types import Origin
from sftcore.data.sources.arrow_files import rows_of
from sftcore.data.sources.compression import COMPRESSED, DAMAGED, suffixes
from sftcore.data.sources.readers import (
    DELIMITED,
    LINES,
    READERS,
    TABLES,
    LineRange,
    NumberedRow,
    SourceRow,
    decoded,
    is_session,
    read_csv,
    split_lines,
)
from sftcore.runtime.console import first_line, warn

_T = TypeVar("_T")

BUFFER = 1 << 17  # bytes of a file that are read at a time: line ends are found in half the time of the default

_SUFFIXES = f"{', '.join(READERS)}; all but Parquet and Arrow also with {', '.join(COMPRESSED)} after it"

METADATA = {"dataset_info.json", "dataset_infos.json"}
"""Files in a folder of data that describe it."""


def _is_data(path: Path) -> bool:
    suffix, compression = suffixes(path)
    return suffix in READERS and not (compression and suffix in TABLES)


def _is_in_folder(path: Path) -> bool:
    """Whether a folder that has the file *path* means it: as a glob would, and it has rows."""
    return _is_data(path) and path.is_file() and not path.name.startswith(".") and path.name not in METADATA


def find_files(source: SourceConfig, document: Document) -> list[Path]:
    """The files that *source* names, sorted; none if it is the id of a hub dataset.

    Raises:
        DataError: a path or glob matches nothing, or a file has an unknown suffix.
    """
    path = document.locate(source.path)
    if path.is_dir():
        files = _saved_files(path, source) or sorted(filter(_is_in_folder, path.iterdir()))
        if not files:
            inner = any(_is_data(Path(name)) for _, _, names in os.walk(path) for name in names if name[0] != ".")
            hint = f"; for those in its folders name {source.path.rstrip('/')}/**/*" if inner else ""
            raise DataError(f"data source {source.path}: the folder has no file that ends in {_SUFFIXES}{hint}")
    elif path.is_file():
        files = [path]
    else:
        patterns = [str(path)] if document.folder is None else [str(path), str(document.folder / path)]
        files = next((sorted(matches) for pattern in patterns if (matches := _matches(pattern))), [])
    if not files and _is_hub_id(source.path):
        return []
    if not files:
        near = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = "; only files of this machine and hub datasets can be read" if "://" in source.path else ""
        problem = f"the file does not exist (working directory: {os.getcwd()}){hint or nearest(path.name, near)}"
        raise DataError(f"data source {source.path}: {problem}")
    for file in files:
        if not _is_data(file) or not file.is_file():
            raise DataError(f"data source {file}: expected a file that ends in {_SUFFIXES}")
    return _each_once(files)


def _saved_files(folder: Path, source: SourceConfig) -> list[Path]:
    """The files of a dataset or a split that ``save_to_disk`` of datasets wrote into *folder*; none if it did not.

    Raises:
        DataError: there is no such split, or not all that it needs.
    """
    try:
        if (splits := folder / "dataset_dict.json").is_file():
            names = json.loads(splits.read_bytes())["splits"]
            if source.split not in names:
                problem = f"a saved dataset with the splits {', '.join(names)}; name one with 'split'"
                raise DataError(f"data source {source.path}: {problem}")
            folder /= source.split
        if not (described := folder / "state.json").is_file():
            return []
        state = json.loads(described.read_bytes())
        if state.get("_indices_data_files"):
            raise DataError(f"data source {source.path}: saved by an old version of datasets; save it again")
        return [folder / file["filename"] for file in state["_data_files"]]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(f"data source {source.path}: not a complete saved dataset: {error!r}") from None


def _matches(pattern: str) -> list[Path]:
    """The files that *pattern* matches; the folders, if it matches nothing else."""
    paths = [Path(name) for name in glob.glob(pattern, recursive=True)]
    return [path for path in paths if path.is_file()] or paths


def _each_once(files: list[Path]) -> list[Path]:
    """*files* without further names of a file, as links give it; these are reported."""
    first: dict[tuple[int, int], Path] = {}
    for file in sorted(files, key=lambda file: len(file.parts)):
        stat = file.stat()
        if (known := first.setdefault((stat.st_dev, stat.st_ino), file)) is not file:
            _report_second_name(known, file)
    return [file for file in files if file in first.values()]


@cache
def _report_second_name(file: Path, other: Path) -> None:
    """Report *other*, once in this process."""
    warn(f"{other} is another name of {file}, which is read once")


def _is_hub_id(text: str) -> bool:
    """Whether *text* can only be ``owner/name`` on a hub: no suffix, no wildcard, one slash."""
    return (
        text.count("/") == 1
        and not text.startswith((".", "/", "~"))
        and not any(mark in text for mark in "*?[:")
        and not _is_data(Path(text))
    )


def file_state(path: Path) -> list[int]:
    """Size, times and inode of a file: different as soon as somebody touches it."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


class SourceRows:
    """The rows of a source in order, up to its limit; each iteration reads them again.

    ``names`` are those of its ``files``, or the id of the hub dataset; ``size`` is in bytes. *streaming* reads a hub
    dataset without downloading it.

    Raises:
        DataError: there is no such file or hub dataset; or, where rows are read, a file cannot be, or is not a list.
    """

    def __init__(self, source: SourceConfig, document: Document, streaming: bool = False) -> None:
        self.files = find_files(source, document)
        self.names = [str(file) for file in self.files] or [source.path]
        self._source = source
        self._hub = None if self.files else _load_hub(source, streaming)
        self._check_options()
        self._states = [file_state(file) for file in self.files]
        self.size = self._total = (
            sum(file.stat().st_size for file in self.files) if self._hub is None else int(self._hub.dataset_size or 0)
        )
        self._before = self._taken = 0
        self._position: Callable[[], int] = lambda: 0

    @property
    def progress(self) -> float:
        """The share that has been read, between 0 and 1, by the position in the files."""
        limited = self._taken / self._source.limit if self._source.limit else 0.0
        return min(1.0, max(limited, (self._before + self._position()) / (self._total or 1)))

    @property
    def fingerprint(self) -> str:
        """The fingerprint that ``datasets`` has for a hub dataset; '' for files."""
        return "" if self._hub is None else str(self._hub._fingerprint)

    def _check_options(self) -> None:
        """Raise DataError if the source has an option that its files do not have."""
        source, folder = self._source, self.files[0].parent.name if self.files else None
        for name in ("subset", "split") if folder is not None else ():
            if (value := getattr(source, name)) != getattr(SourceConfig, name) and value != folder:
                raise DataError(f"data source {source.path}: has '{name}', and files have none; name the files instead")
        if source.delimiter and any(suffixes(Path(name))[0] not in DELIMITED for name in self.names):
            raise DataError(f"data source {source.path}: 'delimiter' is for files that end in {' or '.join(DELIMITED)}")

    def check_unchanged(self) -> None:
        """Raise DataError unless the files are as they were when this was created."""
        for file, state in zip(self.files, self._states, strict=True):
            if not file.is_file() or file_state(file) != state:
                raise DataError(f"data source {file}: was changed while it was read; run again")

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        """Yield the number of a file, a line in it, and its content as in ``readers.NumberedRow``."""
        self._before = self._taken = 0
        in_files = self._of_files(self._read)
        rows = ((number, line, raw) for number, (line, raw) in in_files) if self._hub is None else self._hub_rows()
        for row in islice(rows, self._source.limit):
            self._taken += 1
            yield row

    def decoded(self) -> Iterator[SourceRow]:
        """Yield the rows with their origins."""
        for file, line, raw in self:
            yield Origin(self.names[file], line), decoded(raw)

    def line_ranges(self, most: int, size: int) -> Iterator[tuple[int, LineRange]] | None:
        """The number of a file, and lines of it: at most *most*, or as many as have *size* bytes.

        None, unless there is no limit, and every file is plain JSONL.
        """
        if self._hub is not None or self._source.limit is not None or not all(map(_has_plain_lines, self.files)):
            return None
        self._before = self._taken = 0
        return self._of_files(lambda path, file: split_lines(path, file, most, size))

    def _read(self, path: Path, file: IO[bytes]) -> Iterator[NumberedRow]:
        if self._source.delimiter:
            return read_csv(path, file, self._source.delimiter)
        return READERS[suffixes(path)[0]](path, file)

    def _of_files(self, read: Callable[[Path, IO[bytes]], Iterator[_T]]) -> Iterator[tuple[int, _T]]:
        for number, path in enumerate(self.files):
            try:
                with path.open("rb", BUFFER) as file:
                    self._position = file.tell
                    for item in read(path, file):
                        yield number, item
                    self._position = lambda: 0
            except DAMAGED as error:
                raise DataError(f"data source {path} is damaged: {error}") from None
            except OSError as error:
                raise DataError(f"data source {path} cannot be read: {error}") from None
            self._before += path.stat().st_size

    def _hub_rows(self) -> Iterator[tuple[int, int, Any]]:
        assert self._hub is not None
        self._total = _hub_size(self._hub)
        try:
            for batch in self._hub.with_format("arrow").iter(batch_size=1024):
                for row in rows_of([batch]):
                    self._before += 1
                    yield 0, self._before, row
        except Exception as error:  # a stream raises as many kinds as _load_hub
            raise DataError(f"data source {self._source.path} cannot be read: {first_line(error)}") from None


def _has_plain_lines(path: Path) -> bool:
    """Whether each line of the file *path* is a row, and not compressed."""
    if suffixes(path) not in [(suffix, "") for suffix in LINES]:
        return False
    try:
        with path.open("rb") as file:
            return not is_session(file.readline())
    except OSError:  # raised again where the rows are read
        return True


def _load_hub(source: SourceConfig, streaming: bool) -> Any:
    import datasets

    try:
        return datasets.load_dataset(source.path, source.subset, split=source.split, streaming=streaming)
    except Exception as error:  # the hub's client raises many kinds: no network, no such set, no access, ...
        part = (f"subset '{source.subset}', " if source.subset else "") + f"split '{source.split}'"
        problem = f"no such file here, and no hub dataset ({part}): {first_line(error)}"
        raise DataError(f"data source {source.path}: {problem}") from None


def _hub_size(hub: Any) -> int:
    """Rows of a hub dataset; 0, if it is streamed and does not say."""
    if hasattr(hub, "__len__"):
        return len(hub)
    splits = hub.info.splits or {}
    return int(splits[hub.split].num_examples or 0) if hub.split in splits else 0
