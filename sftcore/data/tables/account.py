"""The account of every row that was read: counts of one source while it is labelled, and of a whole run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sftcore.core.errors import DataError
from sftcore.data.row_types import Origin
from sftcore.data.sources.rejected import SHOWN, RejectedRow, kind_of_reason, rejected_rows
from sftcore.data.tables.summary import Summary
from sftcore.runtime.console import count

EVALUATED, NOT_SAMPLED = "also in data.eval", "not sampled"
NOT_REACHED = "read, but not trained before the run ended"
NOT_EVALUATED = "read, but never evaluated"
TOO_LONG, UNTRAINED = "too long", "without a trained token"  # why rows are dropped

SURE = 1024
"""How many rows of a source are read before the share of a part of them counts for all."""

MAX_KINDS, OTHER_KINDS = 200, "others"
"""How many kinds of reasons, or unread keys, are counted separately, and the name of the rest."""

RejectedPlace = tuple[int, int, str]  # a rejected row: the number of its file, its line, and the reason


@dataclass
class RowTotals:
    """The account of the rows of a source, or of a part of it, in numbers."""

    read: int = 0  # rows that were read
    tokens: int = 0  # tokens of their examples
    bad: dict[str, int] = field(default_factory=dict)  # rows that could not be read, by kind of reason
    first_bad: list[RejectedPlace] = field(default_factory=list)  # the first of them, in order
    unlabelled: dict[str, int] = field(default_factory=dict)  # rows that cannot be labelled, by kind of reason
    first_unlabelled: list[RejectedPlace] = field(default_factory=list)  # the first of them, in order
    columns: list[str] = field(default_factory=list)  # columns that rows had, where some are renamed
    unread: dict[str, int] = field(default_factory=dict)  # rows that have a key that nothing reads, by its name
    size: int = 0  # bytes of the tables, and of the rejected rows
    digests: list[str] = field(default_factory=list)  # XXH3-128 of each of these files

    def add(self, other: RowTotals) -> None:
        """Add the totals of further rows; of too many kinds of reasons the rest is counted as one."""
        self.read += other.read
        self.tokens += other.tokens
        self.size += other.size
        self.digests += other.digests
        mine, others = (self.bad, self.unlabelled, self.unread), (other.bad, other.unlabelled, other.unread)
        for kinds, more in zip(mine, others, strict=True):
            for kind, rows in more.items():
                known = kind if kind in kinds or len(kinds) < MAX_KINDS else OTHER_KINDS
                kinds[known] = kinds.get(known, 0) + rows
        self.first_bad = [*self.first_bad, *other.first_bad][:SHOWN]
        self.first_unlabelled = [*self.first_unlabelled, *other.first_unlabelled][:SHOWN]
        self.columns = list(dict.fromkeys([*self.columns, *other.columns]))

    def unread_note(self, name: str) -> str:
        """What to tell of the keys that nothing reads of the source *name*; empty if there are none."""
        if not self.unread:
            return ""
        order = sorted(self.unread.items(), key=lambda item: (not item[0].endswith("?)"), -item[1]))  # typos first
        keys = [f"{key}: {count(rows, 'row')}" for key, rows in order[:SHOWN]]
        more = f", and {len(self.unread) - SHOWN} more keys" if len(self.unread) > SHOWN else ""
        return f"{name}: nothing reads {', '.join(keys)}{more}; `data.unread: error` rejects such rows"

    @property
    def rejected(self) -> Counter[str]:
        """All rows that are not used, by kind of reason."""
        return Counter(self.bad) + Counter(self.unlabelled)


def count_rejected(rejected: Sequence[RejectedRow], file: int) -> tuple[dict[str, int], list[RejectedPlace]]:
    """The numbers of rows of a *file* by kind of reason, and the first rows."""
    kinds = Counter(kind_of_reason(row.reason) for row in rejected)
    return dict(kinds), [(file, row.origin.line, row.reason) for row in rejected[:SHOWN]]


def rejected_at(places: Sequence[RejectedPlace], names: Sequence[str]) -> list[RejectedRow]:
    """The rejected rows at *places* in files of these *names*."""
    return [RejectedRow(Origin(names[file], line), reason) for file, line, reason in places]


def check_usable(parts: Sequence[tuple[RowTotals, Sequence[str]]], prefix: str = "") -> None:
    """Check that a row of *parts*, each with the names of its files, could be read and labelled.

    Raises:
        DataError: none could; the message begins with *prefix*.
    """
    rejected = sum(totals.rejected.total() for totals, _ in parts)
    if rejected and rejected == sum(totals.read for totals, _ in parts):
        places = [([*totals.first_bad, *totals.first_unlabelled], names) for totals, names in parts]
        raise DataError(prefix + rejected_rows([str(row) for item in places for row in rejected_at(*item)], rejected))


def is_above(totals: RowTotals, most: float) -> bool:
    """Whether more than the share *most* of the well-formed rows of *totals* is unlabelled."""
    return sum(totals.unlabelled.values()) > most * (totals.read - sum(totals.bad.values()))


def check_labelled(source: str, totals: RowTotals, names: Sequence[str], most: float) -> None:
    """Check that at most the share *most* of the rows of a *source*, whose files have these *names*, is unlabelled.

    Raises:
        DataError: with the most frequent reasons, and the first rows.
    """
    if not is_above(totals, most):
        return
    kinds = Counter(totals.unlabelled)
    lines = [
        f"data source {source}: {kinds.total():,} of {count(totals.read, 'row')} cannot be labelled with this chat "
        f"template, more than data.max_unlabelled allows ({most:.0%}); choose a template that prints what is in them "
        "(template), exclude them, or raise data.max_unlabelled"
    ]
    lines += [f"{rows:>8,} x {kind}" for kind, rows in kinds.most_common(SHOWN)]
    raise DataError("\n".join([*lines, *(f"  {row}" for row in rejected_at(totals.first_unlabelled, names)[:3])]))


class BadRowLimit:
    """Counts the malformed rows of all sources against ``data.max_bad_rows``: *most*, below 1 a share of those read."""

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
            DataError: they are; the first are listed, and all are counted by reason.
        """
        kinds, read, most = Counter(self._totals.bad), self._totals.read, self._most
        number = kinds.total()
        if number <= (most * read if most < 1 else most):
            return
        lines = [rejected_rows([str(row) for row in self._first], number)]
        if number > SHOWN:
            lines += [f"{rows:>8,} x {kind}" for kind, rows in kinds.most_common(SHOWN)]
            others = number - sum(rows for _, rows in kinds.most_common(SHOWN))
            lines += [f"{others:>8,} x other reasons"] if others else []
            lines += ["  data.max_bad_rows lets a run continue without malformed rows"] if not most else []
        if most:
            allowed = f"{most:.2%} of {count(read, 'row')}" if most < 1 else f"{most:,.0f}"
            lines.append(f"  data.max_bad_rows is {allowed}")
        raise DataError("\n".join(lines))


@dataclass(frozen=True)
class Account:
    """The number of rows that were read, each of which is in exactly one of the others."""

    read: int = 0
    trained: int = 0
    evaluated: int = 0
    # by reason: malformed rows and those that cannot be labelled; excluded rows and those of which nothing is trained
    rejected: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    unread: Mapping[str, int] = field(default_factory=dict)  # rows with a key that nothing reads, by its name

    def __post_init__(self) -> None:
        total = self.trained + self.evaluated + sum(self.rejected.values()) + sum(self.dropped.values())
        assert self.read == total, f"{self.read} rows were read, and {total} are accounted for"

    def reduced_to(self, trained: int, evaluated: int) -> Account:
        """The account with only this many rows trained and evaluated; the others are dropped."""
        fewer = {NOT_REACHED: self.trained - trained, NOT_EVALUATED: self.evaluated - evaluated}
        dropped = {**self.dropped, **{reason: number for reason, number in fewer.items() if number}}
        return replace(self, trained=trained, evaluated=evaluated, dropped=dropped)

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
        dict(Counter(first.unread) + Counter(second.unread)),
    )


def make_account(
    totals: Sequence[RowTotals], dropped: Mapping[str, int], train: Summary, evaluation: Summary, rest: str = ""
) -> Account:
    """The account of the rows of *totals*, some of them *dropped* by the selection, the others in one of the sets.

    *rest* is the reason of those that are in neither yet, where a stream has ended.
    """
    rejected = sum((part.rejected for part in totals), Counter[str]())
    reasons = Counter(dropped)
    reasons[TOO_LONG] += train.too_long + evaluation.too_long
    reasons[UNTRAINED] += train.dropped - train.too_long + evaluation.dropped - evaluation.too_long
    read = sum(part.read for part in totals)
    if rest:
        reasons[rest] = read - train.kept - evaluation.kept - rejected.total() - reasons.total()
    dropped = {reason: rows for reason, rows in reasons.items() if rows}
    unread = sum((Counter(part.unread) for part in totals), Counter[str]())
    return Account(read, train.kept, evaluation.kept, dict(rejected.most_common()), dropped, dict(unread))
