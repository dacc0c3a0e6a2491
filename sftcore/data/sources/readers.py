"""Rows of one file, decompressed, each with its line or number; one that cannot be read does not affect the others."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from sftcore.core.errors import DataError, json_type
from sftcore.core.json_text import STRICT
from sftcore.data.row_types import Origin, UnreadableError
from sftcore.data.sources.arrow_files import read_arrow, read_parquet
from sftcore.data.sources.compression import decompressed
from sftcore.data.sources.strict_json import decode, reason_of
from sftcore.runtime.console import count

SourceRow = tuple[Origin, Any]
"""The origin of a row and its content: a dict if it is sound, :class:`UnreadableError` if it could not be read."""

NumberedRow = tuple[int, Any]
"""The line or number of a row in its file, from 1, and its content; as bytes, if it is still to be decoded."""


_LENIENT = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


_BOM = b"\xef\xbb\xbf"  # the byte order mark with which a UTF-8 text may begin
TRACES = "traces"
"""The key of a session's events in the row that it becomes."""

_CLAUDE_TYPES = ("user", "assistant", "system", "summary", "progress", "attachment", "file-history-snapshot")
SESSION_TYPES = {
    "id": ("session",),
    "payload": ("session_meta",),
    "sessionId": (*_CLAUDE_TYPES, "queue-operation", "permission-mode", "mode", "last-prompt"),
    "parentUuid": _CLAUDE_TYPES,
    "leafUuid": ("summary",),
    "snapshot": ("file-history-snapshot",),
}
"""Types of the event with which a session begins, by another key that it has."""


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
            line = line.removeprefix(_BOM)
        line = line.rstrip()
        if line:
            yield number, line


def split_lines(path: Path, file: IO[bytes], most: int, size: int) -> Iterator[LineRange]:
    """Yield all lines of *file*, opened at *path*: at most *most* at a time, or as many as have *size* bytes."""
    check_first_line(path, decompressed(path, file).readline())
    file.seek(0)
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
    """Yield each line that is not empty, as bytes: many processes decode them; or the one row of a session."""
    stream = decompressed(path, file)
    first = stream.readline()
    check_first_line(path, first)
    lines = number_lines(chain([first], stream))
    return read_session(lines) if is_session(first) else lines


def check_first_line(path: Path, line: bytes) -> None:
    """Raise DataError if a JSON value in the file at *path* has several lines, of which *line* is the first."""
    start = line.removeprefix(_BOM).strip()
    if start == b"[" or (start[:1] == b"[" and start[-1:] in (b",", b"{")):
        raise DataError(f"data source {path}: is one list over several lines, not an object per line; name it .json")
    if start == b"{":
        problem = f"has objects over several lines; write one per line: jq -c . {path.name} > NEW"
        raise DataError(f"data source {path}: {problem}")


def is_session(line: bytes) -> bool:
    """Whether *line* is the first of a session of a coding agent, of which each line is an event."""
    event = decoded(line.removeprefix(_BOM)) if b'"type"' in line else None
    if not isinstance(event, dict) or not isinstance(kind := event.get("type"), str):
        return False
    return any(kind in types and key in event for key, types in SESSION_TYPES.items())


def read_session(lines: Iterable[tuple[int, bytes]]) -> Iterator[NumberedRow]:
    """Yield the one row of a session: its events under the key that the Hub has them under."""
    events: list[Any] = []
    for number, line in lines:
        events.append(event := decoded(line))
        if isinstance(event, UnreadableError):
            yield 1, UnreadableError(f"line {number}: {event}", event.raw)
            return
    yield 1, {TRACES: events}


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

    A file with an object per line is read as such.

    Raises:
        DataError: the file is neither, or the end of an item cannot be found.
    """
    content = decompressed(path, file).read()
    lines = list(islice(number_lines(content.split(b"\n")), 2))
    if len(lines) == 2 and isinstance(decoded(lines[0][1]), dict):
        yield from number_lines(content.split(b"\n"))
        return
    text = content.decode("utf-8-sig", "surrogateescape")
    try:
        start = _after_space(text, 0)
        if not text.startswith("[", start):
            raise DataError(f"data source {path}: {_not_a_list(_LENIENT.decode(text))}")
        yield from _items(text, start + 1)
    except (ValueError, RecursionError) as error:
        raise DataError(f"data source {path}: {reason_of(error)}") from None


def _not_a_list(value: Any) -> str:
    """What is wrong with a file that is *value*, and what to do."""
    if not isinstance(value, dict):
        return f"expected a list of objects, not {json_type(value)}"
    inner = [key for key, item in value.items() if isinstance(item, list) and item and isinstance(item[0], dict)]
    cure = f"keep the list under {inner[0]!r} only" if inner else "put it in [ ] if it is a row"
    return f"is one object (keys: {', '.join(value)}), not a list of objects; {cure}"


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


def read_csv(path: Path, file: IO[bytes], delimiter: str | None = None, usual: str = ",") -> Iterator[NumberedRow]:
    """Yield each row after the header, with the line where it starts; a blank field is null.

    Args:
        delimiter: stands between the fields; None: the *usual* one, if it is in the header.

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
    reader = csv.reader(lines(), strict=True, delimiter=delimiter or usual)
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
            if delimiter is None and len(header) == 1 and (other := re.search(r"[,;\t|]", header[0])):
                problem = f"the header is one column, {header[0]!r}; is another delimiter meant?"
                raise DataError(f"data source {path}:{line}: {problem} (delimiter: {json.dumps(other[0])})")
        elif fields == header or (fields and fields[0].startswith("\ufeff")):
            reason = "a header again, as where files were put together; remove it, and a byte order mark before it"
            yield line, UnreadableError(reason, row=fields)
        elif len(fields) == len(header):
            yield line, {name: field if field.strip() else None for name, field in zip(header, fields, strict=True)}
        elif fields:  # not an empty line
            reason = f"the row has {count(len(fields), 'column')}, the header {len(header)}"
            yield line, UnreadableError(reason, row=fields)


LINES = (".jsonl", ".ndjson")
"""Suffixes of files in which each line is a row."""

DELIMITED = (".csv", ".tsv")
"""Suffixes of files in which a delimiter stands between the fields of a row."""

TABLES = (".parquet", ".arrow")
"""Suffixes of files that are not text, and compressed inside."""

READERS: Mapping[str, Callable[[Path, IO[bytes]], Iterator[NumberedRow]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".parquet": read_parquet,
    ".csv": read_csv,
    ".tsv": partial(read_csv, usual="\t"),
    ".ndjson": read_jsonl,
    ".arrow": read_arrow,
}
"""Readers of files by their suffix."""
