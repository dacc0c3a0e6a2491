"""Rows that cannot be used: where each stands, why, and its content, as messages and ``quarantine.jsonl`` have them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sftcore.core.errors import json_type
from sftcore.data.row_types import Origin, UnreadableError
from sftcore.runtime.console import count
from sftcore.runtime.redaction import redact_text

SHOWN = 10  # how many rows, or reasons, a message lists before it only counts
MAX_REASON = 500  # how many characters a reason may have; a row may bring words of any length into it
MAX_DEPTH = 20_000  # how many calls may write a row: it may be nested as deeply as the JSON decoder allows
QUARANTINE = "quarantine.jsonl"  # the file of all rejected rows, with origin and reason

_POSITIONS = re.compile(
    r"^(?:message|pair) \d+: |(?<=^message) \d+(?= of )|(?<=^pair) \d+(?= )"
    r"|: line \d+ column \d+ \(char \d+\)$| at (?:byte|(?:line \d+, )?column) \d+$"
)


class RejectedRow(NamedTuple):
    """A row that is not used; ``raw`` is its text, where it could not be decoded."""

    origin: Origin
    reason: str
    row: Any = None
    raw: str | None = None

    @classmethod
    def for_reason(cls, origin: Origin, reason: str, row: Any = None, raw: str | None = None) -> RejectedRow:
        """A row rejected for *reason*, which is made printable and short, and has no secrets: it is cached, too."""
        text = redact_text(reason.encode(errors="backslashreplace").decode())
        if len(text) > MAX_REASON:
            text = f"{text[:MAX_REASON]}... ({len(text):,} characters)"
        return cls(origin, text, row, raw)

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"

    def to_json(self) -> str:
        """The reason and the content of the row as one line of JSON."""
        values = {"reason": self.reason, **({"row": self.row} if self.raw is None else {"raw": self.raw})}
        with recursion_limit(MAX_DEPTH):
            return to_json(values)


def to_json(value: Any) -> str:
    """*value* as JSON that can be written as UTF-8."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate can only be written as an escape
        return json.dumps(value, default=str)
    return text


@contextmanager
def recursion_limit(calls: int) -> Iterator[None]:
    """Let the stack be as many *calls* deep."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(calls)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def not_an_object(origin: Origin, row: object) -> RejectedRow:
    """The rejection of *row*, which is not a mapping."""
    if isinstance(row, UnreadableError):
        return RejectedRow.for_reason(origin, str(row), row.row, row.raw)
    hint = " (if the whole file is one list, name it .json)" if isinstance(row, list) else ""
    if isinstance(row, list) and row and isinstance(row[0], dict) and row[0].keys() & {"role", "from"}:
        hint = '; name the list of messages: {"messages": [...]}'
    return RejectedRow.for_reason(origin, f"expected one JSON object, not {json_type(row)}{hint}", row)


def rejected_rows(problems: Sequence[str], number: int | None = None) -> str:
    """The message about *problems*, each ``file:line: reason``; the first of *number*, if that is given."""
    number = number or len(problems)
    more = f"\n  ... and {number - SHOWN} more" if number > SHOWN else ""
    return f"{count(number, 'row')} cannot be used; fix or remove:\n  " + "\n  ".join(problems[:SHOWN]) + more


def kind_of_reason(reason: str) -> str:
    """*reason* without the position within the row, so that like rows are counted together."""
    return _POSITIONS.sub("", reason)


def to_quarantine_line(text: str, names: Sequence[str]) -> str:
    """A line of ``LabelledBlock.rejected`` as one of the file, with the *names* of the source's files."""
    file, line, content = text.split(" ", 2)
    return f'{{"source": {to_json(f"{names[int(file)]}:{line}")}, {content[1:]}'


def write_quarantine(folder: Path, lines: Iterable[str]) -> tuple[Path, int] | None:
    """Write *lines* into *folder*: the path of the file and their number, or None, and no file, if there are none."""
    path, number = folder / QUARANTINE, 0
    for number, line in enumerate(lines, start=1):
        if number == 1:
            file = path.open("w", encoding="utf-8")
        file.write(line)
    if not number:
        path.unlink(missing_ok=True)  # of an earlier run
        return None
    file.close()
    return path, number
