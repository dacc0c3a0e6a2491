"""Reading rows from files and hub data sets, each with the place it came from."""

from __future__ import annotations

import csv
import glob
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sftcore.config import SourceConfig
from sftcore.document import Document
from sftcore.errors import DataError
from sftcore.types import Origin

Row = tuple[Origin, Any]
"""Where a row was read, and what was read there: a dict, if the row is sound. A ``ValueError``
stands for a row that could not be read at all."""

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")


def files_of(source: SourceConfig, document: Document) -> list[Path]:
    """Return the files that *source* names, sorted; none if it is the id of a hub data set.

    Raises:
        DataError: a path or glob that matches nothing, or a file of an unknown kind.
    """
    path = document.locate(source.path)
    if path.is_dir():
        found = sorted(child for child in path.iterdir() if child.suffix in SUFFIXES)
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
        if file.suffix not in SUFFIXES:
            raise DataError(f"data source {file}: expected a file that ends in {', '.join(SUFFIXES)}")
    return found


def _is_hub_id(text: str) -> bool:
    """Tell whether *text* can only be ``owner/name`` on a hub: no suffix, no wildcard, one slash."""
    return (
        text.count("/") == 1
        and not text.startswith((".", "/", "~"))
        and not any(mark in text for mark in "*?[:")
        and (Path(text).suffix not in SUFFIXES)
    )


def read(source: SourceConfig, document: Document) -> Iterator[Row]:
    """Yield every row of *source*, in order.

    Raises:
        DataError: the source cannot be opened, or is no list of rows at all.
    """
    files = files_of(source, document)
    if not files:
        yield from _read_hub(source)
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet, ".csv": _read_csv}
    for file in files:
        try:
            yield from readers[file.suffix](file)
        except OSError as error:
            raise DataError(f"data source {file} cannot be read: {error}") from None


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            origin = Origin(str(path), number)
            try:
                yield origin, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                yield origin, ValueError(f"not valid UTF-8: {error.reason} at byte {error.start + 1}")
            except RecursionError:
                yield origin, ValueError("not valid JSON: nested too deeply")
            except ValueError as error:
                yield origin, ValueError(f"not valid JSON: {error}")


def _read_json(path: Path) -> Iterator[Row]:
    """Read one JSON list; the number of a row is its place in the list, since lines mean nothing there."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"data source {path}: not valid JSON: {error} (one object a line? then name it .jsonl)"
        ) from None
    if not isinstance(rows, list):
        raise DataError(f"data source {path}: expected a list of objects")
    for number, row in enumerate(rows, start=1):
        yield Origin(str(path), number), row


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        csv.field_size_limit(1 << 30)  # the default refuses texts of 128 KiB
        reader = csv.reader(lines, strict=True)
        line = 1
        try:
            header = next(reader, [])
            line = reader.line_num + 1  # where a row begins: its fields may have line breaks in them
            for row in reader:
                origin, line = Origin(str(path), line), reader.line_num + 1
                if len(row) == len(header):
                    yield origin, dict(zip(header, row, strict=True))
                elif row:  # not an empty line
                    yield origin, ValueError(f"the row has {len(row)} columns, the header {len(header)}")
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"data source {path}:{line}: not valid CSV: {error}") from None


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield Origin(str(path), number), _without_nulls(row)
    except pyarrow.ArrowException as error:
        raise DataError(f"data source {path}: not a valid Parquet file: {error}") from None


def _read_hub(source: SourceConfig) -> Iterator[Row]:
    import datasets

    try:
        rows = datasets.load_dataset(source.path, split=source.split)
    except Exception as error:  # the hub's client raises many kinds: no network, no such set, no access, ...
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"data source {source.path}: no such file here, and no hub data set (split '{source.split}'): {text}"
        ) from None
    for number, row in enumerate(rows, start=1):
        yield Origin(source.path, number), _without_nulls(row)


def _without_nulls(row: Any) -> Any:
    """Return *row* without null fields: in a table every row has every column, so null means absent."""
    if isinstance(row, dict):
        return {key: _without_nulls(value) for key, value in row.items() if value is not None}
    return [_without_nulls(item) for item in row] if isinstance(row, list) else row
