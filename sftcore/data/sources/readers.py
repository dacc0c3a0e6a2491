"""Rows of one file, decompressed, each with its line or number; one that cannot be read does not affect the others."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from sftcore.core.errors import DataError
from sftcore.data.row_types import Origin
from sftcore.data.sources.strict_json import STRICT, decode, reason_of
from sftcore.runtime.console import count

SourceRow = tuple[Origin, Any]
"""The origin of a row and its content: a dict if it is sound, :class:`UnreadableError` if it could not be read."""

NumberedRow = tuple[int, Any]
"""The line or number of a row in its file, from 1, and its content; as bytes, if it is still to be decoded."""

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""Suffixes of compressed files, after the suffix of their content: ``rows.jsonl.gz``."""

DAMAGED = (EOFError, zlib.error, lzma.LZMAError)  # what reading a damaged file raises, beside ``OSError``


class UnreadableError(ValueError):
    """In place of a row that could not be read: why, its text (bytes that are not UTF-8 escaped), or what was read."""

    def __init__(self, reason: str, raw: str | None = None, row: Any = None) -> None:
        super().__init__(reason)
        self.raw, self.row = raw, row


_LENIENT = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


def plain_suffix(path: Path) -> str:
    """The suffix of *path* for its content, without that of its compression."""
    return Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


def decompressed(path: Path, file: IO[bytes]) -> IO[bytes]:
    """The content of *file*, opened at *path*; raise DataError for a ``.zst`` file if this pyarrow has no zstd."""
    if path.suffix != ".zst":
        openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
        return cast("IO[bytes]", openers[path.suffix](file)) if path.suffix in openers else file
    import pyarrow

    if not pyarrow.Codec.is_available("zstd"):
        raise DataError(f"data source {path}: this build of pyarrow has no zstd; decompress the file first")
    return io.BufferedReader(pyarrow.input_stream(file, compression="zstd"))


@dataclass(frozen=True)
class LineRange:
    """Some lines of the file at *path*, read when they are iterated."""

    path: Path
    start: int  # byte where they begin
    size: int  # in bytes
    first: int  # number of the first line, from 1
    number: int  # of lines

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yield the lines with their numbers; raise DataError if the file cannot be read."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                content = file.read(self.size)
        except OSError as error:
            raise DataError(f"data source {self.path} cannot be read: {error}") from None
        return number_lines(content.split(b"\n"), self.first)


def number_lines(lines: Iterable[bytes], first: int = 1) -> Iterator[tuple[int, bytes]]:
    """Yield each of *lines* that is not empty, with its number; the first line has the number *first*."""
    for number, line in enumerate(lines, first):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        line = line.rstrip()
        if line:
            yield number, line


def split_lines(path: Path, file: IO[bytes], most: int, size: int) -> Iterator[LineRange]:
    """Yield all lines of *file*, opened at *path*: at most *most* at a time, or as many as have *size* bytes."""
    start, first = 0, 1
    while True:
        number = taken = 0
        for line in islice(file, most):
            number += 1
            taken += len(line)
            if taken >= size:
                break
        if not number:
            return
        yield LineRange(path, start, taken, first, number)
        start, first = start + taken, first + number


def read_jsonl(path: Path, file: IO[bytes]) -> Iterator[NumberedRow]:
    """Yield each line that is not empty, as bytes: many processes decode them."""
    return number_lines(decompressed(path, file))


def decoded(raw: Any) -> Any:
    """The row *raw*, or an :class:`UnreadableError` in its place."""
    if not isinstance(raw, bytes):
        return raw
    try:
        return decode(raw)
    except (ValueError, RecursionError) as error:
        return UnreadableError(reason_of(error), raw.decode(errors="backslashreplace"))


def read_json(path: Path, file: IO[bytes]) -> Iterator[NumberedRow]:
    """Yield the items of one list; the number of a row is its position, since lines mean nothing there.

    Raises:
        DataError: the file is not a list, or the end of an item cannot be found.
    """
    text = decompressed(path, file).read().decode("utf-8-sig", "surrogateescape")
    try:
        start = _after_space(text, 0)
        if not text.startswith("[", start):
            _LENIENT.decode(text)
            raise DataError(f"data source {path}: expected a list of objects")
        yield from _items(text, start + 1)
    except (ValueError, RecursionError) as error:
        raise DataError(f"data source {path}: {reason_of(error)} (one object per line: name it .jsonl)") from None


def _items(text: str, at: int) -> Iterator[NumberedRow]:
    """Yield the items of the list that starts in *text* before *at*; raise ValueError if it is not a list."""
    at = _after_space(text, at)
    number = 0
    more = not text.startswith("]", at)
    while more:
        number += 1
        start = at
        row: Any
        try:
            row, at = STRICT.raw_decode(text, start)
            text[start:at].encode()
        except UnicodeEncodeError:
            row = UnreadableError("not valid UTF-8", _escaped(text[start:at]))
        except ValueError as error:
            _, at = _LENIENT.raw_decode(text, start)
            row = UnreadableError(reason_of(error), _escaped(text[start:at]))
        at = _after_space(text, at)
        more = text.startswith(",", at)
        if not more and not text.startswith("]", at):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
        at = _after_space(text, at + 1)
        yield number, row
    at = _after_space(text, at + 1) if not number else at
    if at != len(text):
        raise json.JSONDecodeError("Extra data", text, at)


def _escaped(text: str) -> str:
    """*text*, decoded with surrogates for bytes that are not UTF-8, with escapes in their place."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _after_space(text: str, at: int) -> int:
    """The position in *text* of the first character from *at* that is not white space."""
    space = _SPACE.match(text, at)
    assert space
    return space.end()


def read_csv(path: Path, file: IO[bytes]) -> Iterator[NumberedRow]:
    """Yield each row after the header, with the line where it starts.

    Raises:
        DataError: the header cannot be used, or a quoted field never ends.
    """
    text = io.TextIOWrapper(decompressed(path, file), encoding="utf-8-sig", errors="surrogateescape", newline="")
    taken: list[str] = []  # the lines of a row, and '' at the end of the file

    def lines() -> Iterator[str]:
        for line in text:
            taken.append(line)
            yield line
        taken.append("")

    csv.field_size_limit(1 << 30)  # the default rejects texts of 128 KiB
    reader = csv.reader(lines(), strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        taken.clear()  # a row may have line breaks in its fields
        try:
            fields = next(reader)
            "".join(fields).encode()
        except StopIteration:
            return
        except (csv.Error, UnicodeEncodeError) as error:
            reason = f"not valid CSV: {error}" if isinstance(error, csv.Error) else "not valid UTF-8"
            if header is None or ("" in taken and isinstance(error, csv.Error)):
                raise DataError(f"data source {path}:{line}: {reason}") from None
            yield line, UnreadableError(reason, _escaped("".join(taken).rstrip("\r\n")))
            continue
        if header is None:
            header = fields
            for name in header:
                if header.count(name) > 1:
                    raise DataError(f"data source {path}:{line}: the header has the column {name!r} twice")
        elif len(fields) == len(header):
            yield line, dict(zip(header, fields, strict=True))
        elif fields:  # not an empty line
            reason = f"the row has {count(len(fields), 'column')}, the header {len(header)}"
            yield line, UnreadableError(reason, row=fields)


def read_parquet(path: Path, file: IO[bytes]) -> Iterator[NumberedRow]:
    """Yield the rows of a table; raise DataError if the file is none."""
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            rows = (row for batch in table.iter_batches(batch_size=1024) for row in batch.to_pylist())
            yield from ((number, without_nulls(row)) for number, row in enumerate(rows, start=1))
    except pyarrow.ArrowException as error:
        raise DataError(f"data source {path}: not a valid Parquet file: {error}") from None


def without_nulls(row: Any) -> Any:
    """*row* without null fields: in a table every row has every column, so null means absent."""
    if isinstance(row, dict):
        return {key: without_nulls(value) for key, value in row.items() if value is not None}
    return [without_nulls(item) for item in row] if isinstance(row, list) else row


JSONL = ".jsonl"  # the suffix of files in which each line is a row

READERS: Mapping[str, Callable[[Path, IO[bytes]], Iterator[NumberedRow]]] = {
    JSONL: read_jsonl,
    ".json": read_json,
    ".parquet": read_parquet,
    ".csv": read_csv,
}
"""Readers of files by their suffix."""
