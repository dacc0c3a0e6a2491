"""The account of every row that was read: counts of one source while it is labelled, and of a whole run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sftcore.data.row_types import Origin
from sftcore.data.sources.rejected import SHOWN, RejectedRow, check_bad_rows, kind_of_reason
from sftcore.data.tables.summary import Summary
from sftcore.runtime.console import count

EVALUATED, NOT_SAMPLED = "also in data.eval", "not sampled"
TOO_LONG, UNTRAINED = "too long", "without a trained token"
"""Why rows are dropped."""

MAX_KINDS, OTHER_KINDS = 200, "other reasons"
"""How many kinds of reasons are counted separately, and the name of the rest."""

RejectedPlace = tuple[int, int, str]
"""A rejected row: the number of its file, its line, and the reason."""


@dataclass
class RowTotals:
    """The account of the rows of a source, or of a part of it, in numbers."""

    read: int = 0
    """Rows that were read."""
    tokens: int = 0
    """Tokens of their examples."""
    bad: dict[str, int] = field(default_factory=dict)
    """Rows that could not be read, by kind of reason."""
    first_bad: list[RejectedPlace] = field(default_factory=list)
    """The first of them, in order."""
    unlabelled: dict[str, int] = field(default_factory=dict)
    """Rows that cannot be labelled, by kind of reason."""
    first_unlabelled: list[RejectedPlace] = field(default_factory=list)
    """The first of them, in order."""
    columns: list[str] = field(default_factory=list)
    """Columns that rows had, where some are renamed."""
    size: int = 0
    """Bytes of the tables, and of the rejected rows."""

    @classmethod
    def for_block(
        cls, read: int, tokens: int, bad: Sequence[RejectedRow], unlabelled: Sequence[RejectedRow], file: int
    ) -> RowTotals:
        """The totals of some rows of the *file* of this number."""
        return cls(read, tokens, _kinds(bad), _places(bad, file), _kinds(unlabelled), _places(unlabelled, file))

    def add(self, other: RowTotals) -> None:
        """Add the totals of further rows."""
        self.read += other.read
        self.tokens += other.tokens
        _add_kinds(self.bad, other.bad)
        self.first_bad = [*self.first_bad, *other.first_bad][:SHOWN]
        _add_kinds(self.unlabelled, other.unlabelled)
        self.first_unlabelled = [*self.first_unlabelled, *other.first_unlabelled][:SHOWN]
        self.columns = list(dict.fromkeys([*self.columns, *other.columns]))
        self.size += other.size


def _add_kinds(kinds: dict[str, int], more: Mapping[str, int]) -> None:
    """Add *more* to the numbers by kind; of too many kinds the rest is counted as one."""
    for kind, rows in more.items():
        known = kind if kind in kinds or len(kinds) < MAX_KINDS else OTHER_KINDS
        kinds[known] = kinds.get(known, 0) + rows


def _kinds(rejected: Sequence[RejectedRow]) -> dict[str, int]:
    return dict(Counter(kind_of_reason(row.reason) for row in rejected))


def _places(rejected: Sequence[RejectedRow], file: int) -> list[RejectedPlace]:
    return [(file, row.origin.line, row.reason) for row in rejected[:SHOWN]]


def rejected_at(places: Sequence[RejectedPlace], names: Sequence[str]) -> list[RejectedRow]:
    """The rejected rows at *places* in files of these *names*."""
    return [RejectedRow(Origin(names[file], line), reason) for file, line, reason in places]


class BadRowLimit:
    """Counts the malformed rows of all sources against ``data.max_bad_rows``.

    Args:
        most: the number that is tolerated; below 1 a share of the rows read.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self._totals = RowTotals()
        self._first: list[RejectedRow] = []

    def add(self, totals: RowTotals, names: Sequence[str]) -> None:
        """Count rows of a source whose files have these *names*."""
        self._first = [*self._first, *rejected_at(totals.first_bad, names)][:SHOWN]
        self._totals.add(totals)

    def is_exceeded(self, totals: RowTotals | None = None) -> bool:
        """Whether there are too many, however many rows follow; with *totals* of a source that is not counted yet."""
        bad = sum(self._totals.bad.values()) + (sum(totals.bad.values()) if totals else 0)
        return not 0 < self._most < 1 and bad > self._most

    def check(self) -> None:
        """Check that the rows counted are not too many.

        Raises:
            DataError: they are; the message has the first, and the numbers of all.
        """
        check_bad_rows(self._first, self._totals.bad, self._totals.read, self._most)


@dataclass(frozen=True)
class Account:
    """The number of rows that were read, each of which is in exactly one of the others."""

    read: int = 0
    trained: int = 0
    evaluated: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Malformed rows, and rows that the chat template cannot label, by reason."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows that a key of the configuration excludes, or of which nothing is trained, by reason."""

    def __post_init__(self) -> None:
        total = self.trained + self.evaluated + sum(self.rejected.values()) + sum(self.dropped.values())
        assert self.read == total, f"{self.read} rows were read, and {total} are accounted for"

    def __str__(self) -> str:
        parts = [f"{self.trained:,} trained"]
        parts += [f"{self.evaluated:,} evaluated"] if self.evaluated else []
        parts += [f"{sum(self.rejected.values()):,} rejected"] if self.rejected else []
        parts += [f"{number:,} {reason}" for reason, number in self.dropped.items()]
        return f"{count(self.read, 'row')} read: {', '.join(parts)}"


def merge(first: Account, second: Account) -> Account:
    """The account of the rows of both."""
    return Account(
        first.read + second.read,
        first.trained + second.trained,
        first.evaluated + second.evaluated,
        dict((Counter(first.rejected) + Counter(second.rejected)).most_common()),
        dict(Counter(first.dropped) + Counter(second.dropped)),
    )


def make_account(
    totals: Sequence[RowTotals], dropped: Mapping[str, int], train: Summary, evaluation: Summary
) -> Account:
    """The account of the rows of *totals*, some of them *dropped* by the selection, the rest in one of the sets."""
    rejected = Counter[str]()
    for part in totals:
        rejected += Counter(part.bad) + Counter(part.unlabelled)
    reasons = Counter(dropped)
    for summary in (train, evaluation):
        reasons[TOO_LONG] += summary.too_long
        reasons[UNTRAINED] += summary.dropped - summary.too_long
    dropped = {reason: rows for reason, rows in reasons.items() if rows}
    read = sum(part.read for part in totals)
    return Account(read, train.kept, evaluation.kept, dict(rejected.most_common()), dropped)
