"""Which rows are trained, how often, and which are evaluated: by their keys, and by chance that goes by these."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sftcore.config.schema import DataConfig, EvalFraction, SourceConfig
from sftcore.core.errors import DataError
from sftcore.data.selection.holdout import hold_back, keep_out
from sftcore.data.selection.key_hash import Keys
from sftcore.data.selection.mixing import draw, targets
from sftcore.data.tables.account import EVALUATED, NOT_DRAWN
from sftcore.data.tables.examples import Part
from sftcore.data.tables.table import Flags, Integers, Table
from sftcore.runtime.console import count


class Labelled(NamedTuple):
    """The labelled rows of a source, and the names of its files."""

    table: Table
    names: Sequence[str]


class Selection(NamedTuple):
    """The rows of both sets, and what became of the others.

    ``dropped`` has the numbers of those that are in neither set, by reason, and ``notes`` what is said of all this.
    """

    train: list[Part]
    eval: list[Part]
    dropped: dict[str, int]
    notes: list[str]

    def fingerprint(self) -> str:
        """Return a SHA-256 over the labelled tokens of all rows, in order, and how often each is trained."""
        digest = hashlib.sha256()
        for part in (self.train, self.eval):  # all rows of a set together, however they are divided into sources
            for rows in part:
                digest.update(rows.table.digests[rows.rows].tobytes())
            for rows in part:
                digest.update(rows.times.astype("<i8").tobytes())
            digest.update(b"|")
        return f"sha256:{digest.hexdigest()}"


def select(train: Sequence[Labelled], held_back: Sequence[Labelled], config: DataConfig, seed: int) -> Selection:
    """Return which rows of the sources *train* and *held_back* are in which set.

    Raises:
        DataError: a set is left without rows.
    """
    keys = [source.table.keys for source in train]
    also = [source.table.keys for source in held_back]
    _check_left(keys, "the training sources have no rows")
    _check_left(also, "data.eval: the sources have no rows")
    dropped: dict[str, int] = {}
    kept: list[Flags] = [np.ones(len(part), bool) for part in keys]
    if isinstance(config.eval, EvalFraction):
        evaluated = hold_back(keys, config.eval.fraction, seed)
        kept = [~part for part in evaluated]
    elif held_back:
        kept = keep_out(keys, also)
        dropped[EVALUATED] = sum(len(part) - int(part.sum()) for part in kept)
        _check_left([np.flatnonzero(part) for part in kept], "every row of data.train is also in data.eval")
    rows = [np.flatnonzero(part) for part in kept]
    drawn, notes = _draw(keys, rows, config.train, seed, "an epoch")
    parts = [_part(*item) for item in zip(train, rows, drawn, strict=True)]
    if isinstance(config.eval, EvalFraction):
        rest = [np.flatnonzero(part) for part in evaluated]
        alike = [_alike(*item, seed) for item in zip(keys, rest, drawn, strict=True)]
        evaluations = [_part(*item) for item in zip(train, rest, alike, strict=True)]
    else:
        rest = [np.arange(len(part)) for part in also]
        alike, more = _draw(also, rest, config.eval or [], seed, "the evaluation")
        evaluations = [_part(*item) for item in zip(held_back, rest, alike, strict=True)]
        notes += more
    dropped[NOT_DRAWN] = sum(int((times == 0).sum()) for times in (*drawn, *alike))
    return Selection(parts, evaluations, {reason: number for reason, number in dropped.items() if number}, notes)


def _check_left(parts: Sequence[Keys | Integers], problem: str) -> None:
    """Raise if *parts* are of sources, and none has a row."""
    if parts and not any(map(len, parts)):
        raise DataError(problem)


def _draw(
    keys: Sequence[Keys], rows: Sequence[Integers], sources: Sequence[SourceConfig], seed: int, whole: str
) -> tuple[list[Integers], list[str]]:
    """Return how often each of *rows* stands in the *whole*, as its source says, and what is said of it."""
    wanted = targets([len(part) for part in rows], sources)
    drawn: list[Integers] = []
    notes: list[str] = []
    for part, here, source, target in zip(keys, rows, sources, wanted, strict=True):
        if source.share is not None and not len(here):
            raise DataError(f"data source {source.path}: has no rows to train, and so cannot have a share of them")
        drawn.append(draw(part[here], target, seed))
        if target != len(here):
            taken = int((drawn[-1] > 0).sum())
            note = f"{source.path}: {taken:,} of {count(len(here), 'row')} drawn"
            notes.append(f"{note}, as {target:,} of {sum(wanted):,} in {whole} ({target / sum(wanted):.1%})")
    return drawn, notes


def _alike(keys: Keys, rows: Integers, drawn: Integers, seed: int) -> Integers:
    """Return how often each of *rows* is evaluated: as the others of its source are *drawn*, but once at most."""
    rate = min(1.0, float(drawn.mean())) if len(drawn) else 1.0
    return draw(keys[rows], max(1, round(len(rows) * rate)) if len(rows) else 0, seed)


def _part(source: Labelled, rows: Integers, times: Integers) -> Part:
    return Part(source.table, source.names, rows[times > 0], times[times > 0])
