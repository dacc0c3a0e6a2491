"""Where the rows of a source come from: files, or a hub data set."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from sftcore.config import SourceConfig
from sftcore.data.compression import COMPRESSED, DAMAGED, plain_suffix
from sftcore.data.readers import READERS, Row, without_nulls
from sftcore.document import Document
from sftcore.errors import DataError
from sftcore.types import Origin

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
        found = sorted(child for child in path.iterdir() if _is_data(child))
        if not found:
            raise DataError(f"data source {source.path}: the folder has no file that ends in {_ENDINGS}")
    elif path.is_file():
        found = [path]
    else:
        patterns = [str(path)] if document.folder is None else [str(path), str(document.folder / path)]
        found = next(
            (sorted(map(Path, names)) for pattern in patterns if (names := glob.glob(pattern, recursive=True))), []
        )
    if not found and _is_hub_id(source.path):
        return []
    if not found:
        raise DataError(f"data source {source.path}: there is no such file (working directory: {os.getcwd()})")
    for file in found:
        if not _is_data(file):
            raise DataError(f"data source {file}: expected a file that ends in {_ENDINGS}")
    return found


def _is_hub_id(text: str) -> bool:
    """Tell whether *text* can only be ``owner/name`` on a hub: no suffix, no wildcard, one slash."""
    return (
        text.count("/") == 1
        and not text.startswith((".", "/", "~"))
        and not any(mark in text for mark in "*?[:")
        and not _is_data(Path(text))
    )


def read(source: SourceConfig, document: Document) -> Iterator[Row]:
    """Yield the rows of *source*, in order, up to its limit.

    Raises:
        DataError: the source cannot be opened, or is no list of rows at all.
    """
    return islice(_read(source, document), source.limit)


def _read(source: SourceConfig, document: Document) -> Iterator[Row]:
    files = files_of(source, document)
    if not files:
        yield from _read_hub(source)
    for file in files:
        try:
            yield from READERS[plain_suffix(file)](file)
        except DAMAGED as error:
            raise DataError(f"data source {file} is damaged: {error}") from None
        except OSError as error:
            raise DataError(f"data source {file} cannot be read: {error}") from None


def _read_hub(source: SourceConfig) -> Iterator[Row]:
    import datasets

    try:
        rows = datasets.load_dataset(source.path, source.subset, split=source.split)
    except Exception as error:  # the hub's client raises many kinds: no network, no such set, no access, ...
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        part = f"subset '{source.subset}', split '{source.split}'" if source.subset else f"split '{source.split}'"
        raise DataError(f"data source {source.path}: no such file here, and no hub data set ({part}): {text}") from None
    number = 0
    for batch in rows.with_format("arrow").iter(batch_size=1024):
        for row in batch.to_pylist():
            number += 1
            yield Origin(source.path, number), without_nulls(row)
