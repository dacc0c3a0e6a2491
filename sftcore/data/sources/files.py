"""Where the rows of a source come from: files, or a hub data set."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

from sftcore.config.document import Document
from sftcore.config.schema import SourceConfig
from sftcore.core.errors import DataError
from sftcore.data.row_types import Origin
from sftcore.data.sources.compression import COMPRESSED, DAMAGED, plain_suffix
from sftcore.data.sources.lines import Lines, split
from sftcore.data.sources.readers import LINES, READERS, Row, decoded, without_nulls

_T = TypeVar("_T")

BUFFER = 1 << 17
"""How many bytes of a file are read at a time: where its lines end is found in half the time that the default takes."""

NOT_COMPRESSED = (".parquet",)
"""Kinds of file that are compressed within, and not as a whole."""

_ENDINGS = f"{', '.join(READERS)}; all but Parquet also with {', '.join(COMPRESSED)} after it"


def _is_data(path: Path) -> bool:
    """Tell whether *path* is named as a file that can be read."""
    suffix = plain_suffix(path)
    return suffix in READERS and (suffix == path.suffix or suffix not in NOT_COMPRESSED)


def files_of(source: SourceConfig, document: Document) -> list[Path]:
    """Return the files that *source* names, sorted; none if it is the id of a hub data set.

    Raises:
        DataError: a path or glob that matches nothing, or a file of an unknown kind.
    """
    path = document.locate(source.path)
    if path.is_dir():
        found = sorted(child for child in path.iterdir() if _is_data(child) and child.is_file())
        if not found:
            raise DataError(f"data source {source.path}: the folder has no file that ends in {_ENDINGS}")
    elif path.is_file():
        found = [path]
    else:
        patterns = [str(path)] if document.folder is None else [str(path), str(document.folder / path)]
        found = next((sorted(files) for pattern in patterns if (files := _matching(pattern))), [])
    if not found and _is_hub_id(source.path):
        return []
    if not found:
        raise DataError(f"data source {source.path}: there is no such file (working directory: {os.getcwd()})")
    for file in found:
        if not _is_data(file) or not file.is_file():
            raise DataError(f"data source {file}: expected a file that ends in {_ENDINGS}")
    return found


def _matching(pattern: str) -> list[Path]:
    """Return the files that *pattern* matches; if it matches folders only, these."""
    found = [Path(name) for name in glob.glob(pattern, recursive=True)]
    return [path for path in found if path.is_file()] or found


def _is_hub_id(text: str) -> bool:
    """Tell whether *text* can only be ``owner/name`` on a hub: no suffix, no wildcard, one slash."""
    return (
        text.count("/") == 1
        and not text.startswith((".", "/", "~"))
        and not any(mark in text for mark in "*?[:")
        and not _is_data(Path(text))
    )


class Reading:
    """The rows of a source as they are read, in order, up to its limit.

    Args:
        files: of the source, as :func:`files_of` gives them.
        streaming: do not download a hub data set, but read it from there.

    Attributes:
        names: of the files, or the id of the hub data set, as messages call them.
        size: in bytes.
    """

    def __init__(self, source: SourceConfig, files: Sequence[Path], streaming: bool = False) -> None:
        self.names = [str(file) for file in files] or [source.path]
        self._source, self._files = source, files
        self._hub = None if files else _load_hub(source, streaming)
        size = sum(file.stat().st_size for file in files)
        self.size = size if self._hub is None else int(self._hub.dataset_size or 0)
        self._before = self._taken = 0
        self._whole = self.size
        self._position: Callable[[], int] = lambda: 0

    @property
    def share(self) -> float:
        """How much has been read, between 0 and 1, as the place in the files tells."""
        limited = self._taken / self._source.limit if self._source.limit else 0.0
        return min(1.0, max(limited, (self._before + self._position()) / (self._whole or 1)))

    @property
    def fingerprint(self) -> str:
        """What ``datasets`` identifies the rows of a hub data set by; '' for files."""
        return "" if self._hub is None else str(self._hub._fingerprint)

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        """Yield the number of a file, a line in it, and what was read there (see ``readers.Raw``).

        Raises:
            DataError: a file cannot be opened, or is no list of rows at all.
        """
        self._before = self._taken = 0
        for row in islice(self._rows() if self._hub is None else self._hub_rows(), self._source.limit):
            self._taken += 1
            yield row

    @property
    def has_lines(self) -> bool:
        """Whether all of it can be had as :meth:`lines`: it has no limit, and all files are lines as they are."""
        return self._hub is None and self._source.limit is None and {file.suffix for file in self._files} <= {LINES}

    def lines(self, most: int, size: int) -> Iterator[tuple[int, Lines]]:
        """Yield the number of a file, and lines of it: at most so many, or as many as have this *size* in bytes.

        Raises:
            DataError: a file cannot be opened.
        """
        self._before = self._taken = 0
        return self._of_files(lambda path, file: split(path, file, most, size))

    def _rows(self) -> Iterator[tuple[int, int, Any]]:
        found = self._of_files(lambda path, file: READERS[plain_suffix(path)](path, file))
        return ((number, line, raw) for number, (line, raw) in found)

    def _of_files(self, read: Callable[[Path, IO[bytes]], Iterator[_T]]) -> Iterator[tuple[int, _T]]:
        for number, path in enumerate(self._files):
            try:
                with path.open("rb", BUFFER) as file:
                    self._position = file.tell
                    for found in read(path, file):
                        yield number, found
                    self._position = lambda: 0
            except DAMAGED as error:
                raise DataError(f"data source {path} is damaged: {error}") from None
            except OSError as error:
                raise DataError(f"data source {path} cannot be read: {error}") from None
            self._before += path.stat().st_size

    def _hub_rows(self) -> Iterator[tuple[int, int, Any]]:
        assert self._hub is not None
        self._whole = _rows_of_hub(self._hub)
        batches = self._hub.with_format("arrow").iter(batch_size=1024)
        while True:
            try:
                batch = next(batches, None)
            except Exception as error:  # of a stream, as many kinds as in _load_hub
                raise DataError(f"data source {self._source.path} cannot be read: {_first_line(error)}") from None
            if batch is None:
                return
            for row in batch.to_pylist():
                self._before += 1
                yield 0, self._before, without_nulls(row)


def read(source: SourceConfig, document: Document, streaming: bool = False) -> Iterator[Row]:
    """Yield the rows of *source*, in order, up to its limit.

    Args:
        streaming: do not download a hub data set, but read it from there.

    Raises:
        DataError: the source cannot be opened, or is no list of rows at all.
    """
    reading = Reading(source, files_of(source, document), streaming)
    for file, line, raw in reading:
        yield Origin(reading.names[file], line), decoded(raw)


def _load_hub(source: SourceConfig, streaming: bool) -> Any:
    import datasets

    try:
        return datasets.load_dataset(source.path, source.subset, split=source.split, streaming=streaming)
    except Exception as error:  # the hub's client raises many kinds: no network, no such set, no access, ...
        text = _first_line(error)
        part = f"subset '{source.subset}', split '{source.split}'" if source.subset else f"split '{source.split}'"
        raise DataError(f"data source {source.path}: no such file here, and no hub data set ({part}): {text}") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _rows_of_hub(hub: Any) -> int:
    """Return how many rows a hub data set has; 0, if it is streamed and does not say so."""
    if hasattr(hub, "__len__"):
        return len(hub)
    splits = hub.info.splits or {}
    return int(splits[hub.split].num_examples or 0) if hub.split in splits else 0
