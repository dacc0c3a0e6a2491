"""Rows that cannot be used: where each stands, why, what was in it; and how many of them a run bears."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sftcore.core.errors import DataError, json_type
from sftcore.data.row_types import Origin
from sftcore.data.sources.readers import UnreadableError
from sftcore.runtime.console import count

SHOWN = 10
"""How many bad rows, or reasons, a message lists before it only counts."""

LONGEST = 500
"""How many characters a reason may have; a row may bring words of any length into it."""

_PLACES = re.compile(
    r"^(?:message|pair) \d+: |(?<=^message) \d+(?= of )|(?<=^pair) \d+(?= )"
    r"|: line \d+ column \d+ \(char \d+\)$| at (?:byte|(?:line \d+, )?column) \d+$"
)
_DEEP = 20_000


class Refusal(NamedTuple):
    """A row that is not used, as it was read; ``raw`` is its text, where it could not be read."""

    origin: Origin
    reason: str
    row: Any = None
    raw: str | None = None

    @classmethod
    def of(cls, origin: Origin, reason: str, row: Any = None, raw: str | None = None) -> Refusal:
        """Return the refusal of a row for *reason*, in characters that can be printed, and not too many."""
        text = reason.encode(errors="backslashreplace").decode()
        if len(text) > LONGEST:
            text = f"{text[:LONGEST]}... ({len(text):,} characters)"
        return cls(origin, text, row, raw)

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"

    def line(self) -> str:
        """Return the reason and what is in the row, as one line of JSON."""
        values = {"reason": self.reason, **({"row": self.row} if self.raw is None else {"raw": self.raw})}
        with _deep():
            return as_json(values)


def as_json(value: Any) -> str:
    """Return *value* as JSON that can be written as UTF-8."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair can only be written as an escape
        return json.dumps(value, default=str)
    return text


@contextmanager
def _deep() -> Iterator[None]:
    """Let a row be written that is nested as deeply as the reader of JSON allows."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _DEEP))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def no_object(origin: Origin, row: object) -> Refusal:
    """Return the refusal of *row*, which is no mapping."""
    if isinstance(row, UnreadableError):
        return Refusal.of(origin, str(row), row.row, row.raw)
    hint = " (is the whole file one list? then name it .json)" if isinstance(row, list) else ""
    return Refusal.of(origin, f"expected one JSON object, not {json_type(row)}{hint}", row)


def bad_rows(problems: Sequence[str], number: int | None = None) -> str:
    """Return the message about *problems*, each ``file:line: reason``; the first of *number*, if that is given."""
    number = number or len(problems)
    more = f"\n  ... and {number - SHOWN} more" if number > SHOWN else ""
    rows = count(number, "row")
    return f"{rows} cannot be used; mend or remove:\n  " + "\n  ".join(problems[:SHOWN]) + more


def kind_of(reason: str) -> str:
    """Return *reason* without the place within the row, so that like rows are counted together."""
    return _PLACES.sub("", reason)


def check(first: Sequence[Refusal], kinds: Mapping[str, int], read: int, most: float) -> None:
    """End the run if it bears no more than *most* bad rows: a number, or a share of the rows *read*.

    Args:
        first: the first of the bad rows, as many as are shown.
        kinds: the number of bad rows by kind of reason.

    Raises:
        DataError: there are more; the first are listed, and all are counted by reason.
    """
    refused = sum(kinds.values())
    if refused <= (most * read if most < 1 else most):
        return
    told = [bad_rows([str(refusal) for refusal in first], refused)]
    if refused > SHOWN:
        kinds = dict(Counter(kinds).most_common())
        told += [f"{number:>8,} x {kind}" for kind, number in list(kinds.items())[:SHOWN]]
        told += [f"{sum(list(kinds.values())[SHOWN:]):>8,} x other reasons"] if len(kinds) > SHOWN else []
        told += ["  data.max_bad_rows lets a run go on without bad rows"] if not most else []
    if most:
        allowed = f"{most:.2%} of {count(read, 'row')}" if most < 1 else f"{most:,.0f}"
        told.append(f"  data.max_bad_rows is {allowed}")
    raise DataError("\n".join(told))
