"""What became of every row that was read; the numbers add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from sftcore.data.tables.summary import Summary
from sftcore.runtime.console import count

EVALUATED, NOT_DRAWN = "also in data.eval", "not drawn"
TOO_LONG, UNTRAINED = "too long", "without a trained token"
"""Why rows are dropped."""


@dataclass(frozen=True)
class Account:
    """The number of rows that were read, each of which is in exactly one of the others."""

    read: int = 0
    trained: int = 0
    evaluated: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    """Bad rows, and rows that the chat template cannot label, by reason."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows that a key of the configuration keeps out, or of which nothing is trained, by reason."""

    def __post_init__(self) -> None:
        found = self.trained + self.evaluated + sum(self.refused.values()) + sum(self.dropped.values())
        assert self.read == found, f"{self.read} rows were read, and {found} are accounted for"

    def __str__(self) -> str:
        parts = [f"{self.trained:,} trained"]
        parts += [f"{self.evaluated:,} evaluated"] if self.evaluated else []
        parts += [f"{sum(self.refused.values()):,} refused"] if self.refused else []
        parts += [f"{number:,} {reason}" for reason, number in self.dropped.items()]
        return f"{count(self.read, 'row')} read: {', '.join(parts)}"


def merge(first: Account, second: Account) -> Account:
    """Return what became of the rows of both."""
    return Account(
        first.read + second.read,
        first.trained + second.trained,
        first.evaluated + second.evaluated,
        dict((Counter(first.refused) + Counter(second.refused)).most_common()),
        dict(Counter(first.dropped) + Counter(second.dropped)),
    )


def account(
    read: int, refused: Mapping[str, int], dropped: Mapping[str, int], train: Summary, held_back: Summary
) -> Account:
    """Return what became of *read* rows, some of them *refused* or *dropped*, the rest labelled."""
    both = Counter(dropped)
    for summary in (train, held_back):
        both[TOO_LONG] += summary.too_long
        both[UNTRAINED] += summary.dropped - summary.too_long
    dropped = {why: rows for why, rows in both.items() if rows}
    return Account(read, train.kept, held_back.kept, dict(Counter(refused).most_common()), dropped)
