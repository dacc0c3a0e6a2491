"""Rows of files of Arrow and Parquet, and of Arrow batches: their names are unique, and their text is UTF-8."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from sftcore.core.errors import DataError
from sftcore.data.row_types import UnreadableError


def read_parquet(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a table; raise DataError if the file is none."""
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            yield from enumerate(rows_of(table.iter_batches(batch_size=1024)), start=1)
    except DataError as error:
        raise DataError(f"data source {path}: {error}") from None
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"data source {path}: not a valid Parquet file: {error}") from None


def read_arrow(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a stream or file of Arrow; raise DataError if it is neither."""
    import pyarrow.ipc

    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    try:
        with pyarrow.ipc.open_file(file) if is_file else pyarrow.ipc.open_stream(file) as table:
            batches = map(table.get_batch, range(table.num_record_batches)) if is_file else table
            yield from enumerate(rows_of(batches), start=1)
    except DataError as error:
        raise DataError(f"data source {path}: {error}") from None
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"data source {path}: not a valid Arrow file: {error}") from None


def rows_of(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the rows of Arrow *batches*, without null fields; :class:`UnreadableError` where a value has no text.

    Raises:
        DataError: a column appears twice.
    """
    for batch in batches:
        _check_names(list(batch.schema), "column")
        try:
            rows = batch.to_pylist()
        except (ValueError, OverflowError):
            rows = [_row_of(batch, number) for number in range(batch.num_rows)]
        yield from map(without_nulls, rows)


def _check_names(fields: list[Any], what: str) -> None:
    import pyarrow

    names = [field.name for field in fields]
    for field in fields:
        if names.count(field.name) > 1:
            raise DataError(f"has the {what} {field.name!r} twice")
        kind = field.type
        while pyarrow.types.is_nested(kind) and not pyarrow.types.is_struct(kind):
            if not hasattr(kind, "value_type"):
                break
            kind = kind.value_type
        if pyarrow.types.is_struct(kind):
            _check_names(list(kind), f"field of '{field.name}'")


def _row_of(batch: Any, number: int) -> Any:
    """The row of this *number*, or an :class:`UnreadableError` with what of it can be read."""
    row: dict[str, Any] = {}
    reason = ""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[number].as_py()
        except (ValueError, OverflowError) as error:
            kind = "not valid UTF-8" if isinstance(error, UnicodeDecodeError) else f"not readable: {error}"
            reason, row[name] = f"the column '{name}' is {kind}", _escaped_bytes(column[number])
    return UnreadableError(reason, row=row) if reason else row


def _escaped_bytes(value: Any) -> str | None:
    """The text *value* with escapes for bytes that are not UTF-8; None if it is not text."""
    buffer = value.as_buffer() if hasattr(value, "as_buffer") else None
    return None if buffer is None else buffer.to_pybytes().decode(errors="backslashreplace")


def without_nulls(row: Any) -> Any:
    """*row* without null fields: in a table every row has every column, so null means absent."""
    if isinstance(row, dict):
        return {key: without_nulls(value) for key, value in row.items() if value is not None}
    return [without_nulls(item) for item in row] if isinstance(row, list) else row
