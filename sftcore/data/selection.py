"""The rows of the training set and of the evaluation set, and how often each is in an epoch, by their keys alone.

In: the keys of labelled rows, the configuration and the seed. Out: row numbers of each set.
Knows nothing of tokens, files or the order of rows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sftcore.config.schema import DataConfig, EvalFraction, SourceConfig
from sftcore.core.errors import DataError
from sftcore.data.tables.account import EVALUATED, NOT_SAMPLED
from sftcore.data.tables.examples import SelectedRows
from sftcore.data.tables.table import DIGEST, Flags, Integers
from sftcore.runtime.console import count

RowKeys = NDArray[np.void]  # the keys of rows, ``DIGEST`` bytes each


def uniform(keys: RowKeys, salt: str) -> NDArray[np.uint64]:
    """Uniform random numbers, one for each of *keys*: equal for equal keys, and others for another *salt*."""
    assert keys.dtype.itemsize == DIGEST
    first, second = np.frombuffer(keys.tobytes(), "<u8").reshape(-1, 2).T
    seed = int.from_bytes(hashlib.sha256(salt.encode()).digest()[:8], "little")
    return _mixed(_mixed(first ^ np.uint64(seed)) ^ second)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """*values* with all bits mixed: the finalizer of SplitMix64 (Steele, Lea, Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))


def holdout(sources: Sequence[RowKeys], fraction: float, seed: int) -> list[Flags]:
    """For each row of *sources* whether it is held out: about *fraction* of all.

    Rows are chosen by content and *seed*, so that equal rows stay on one side, wherever they come from.

    Raises:
        DataError: there are too few different rows.
    """
    numbers = [uniform(keys, f"evaluation {seed}") for keys in sources]
    ordered = np.sort(np.concatenate(numbers))
    if len(ordered) < 2:
        raise DataError(
            f"data.eval: cannot hold out a fraction of {len(ordered)} row; add rows, or name evaluation sources"
        )
    if ordered[0] == ordered[-1]:
        raise DataError("data.eval: all rows are equal, so no fraction of them can be held out")
    last = ordered[max(1, round(len(ordered) * fraction)) - 1]
    if last == ordered[-1]:  # something has to be trained
        last = ordered[ordered < last][-1]
    return [part <= last for part in numbers]


def exclude(sources: Sequence[RowKeys], evaluated: Sequence[RowKeys]) -> list[Flags]:
    """For each row of *sources* whether its content is not *evaluated* too."""
    excluded: set[Any] = set().union(*(keys.tolist() for keys in evaluated))
    return [np.fromiter((key not in excluded for key in keys.tolist()), bool, len(keys)) for keys in sources]


def target_rows(sizes: Sequence[int], sources: Sequence[SourceConfig]) -> list[int]:
    """The number of rows that each of *sources*, of these *sizes*, gives to an epoch.

    Sources without a share give what they have, times ``repeat``. Those with a share are sampled to fit beside them; if
    every source has a share, an epoch has as many rows as were read.
    """
    shares = sum(source.share or 0.0 for source in sources)
    plain = [size * source.repeat for size, source in zip(sizes, sources, strict=True) if source.share is None]
    total = sum(plain) / (1 - shares) if sum(plain) else sum(sizes) / (shares or 1.0)
    pairs = zip(sizes, sources, strict=True)
    wanted = [size * source.repeat if source.share is None else total * source.share for size, source in pairs]
    return [max(1, math.floor(rows + 0.5)) if size else 0 for rows, size in zip(wanted, sizes, strict=True)]


def sample_times(keys: RowKeys, target: int, seed: int) -> Integers:
    """How often each row is in an epoch: all equally often, or once more, so that the sum is *target*.

    Which rows are taken more often, or not at all, follows from content and *seed*, not from the order.
    """
    often, more = divmod(target, len(keys)) if len(keys) else (0, 0)
    times = np.full(len(keys), often)
    if more:
        times[np.argsort(uniform(keys, f"draw {seed}"), kind="stable")[:more]] += 1
    return times


class Selection(NamedTuple):
    """The rows of both sets."""

    train: list[SelectedRows]
    eval: list[SelectedRows]
    dropped: dict[str, int]  # the number of rows in neither set, by reason
    notes: list[str]  # status lines about all this

    def fingerprint(self) -> str:
        """SHA-256 over the labelled tokens of all rows, in order, and how often each is trained."""
        digest = hashlib.sha256()
        for parts in (self.train, self.eval):  # all rows of a set in one digest, however they are divided into sources
            for part in parts:
                digest.update(part.table.digests[part.rows].tobytes())
            for part in parts:
                digest.update(part.times.astype("<i8").tobytes())
            digest.update(b"|")
        return f"sha256:{digest.hexdigest()}"


def select(
    train: Sequence[SelectedRows], evaluation: Sequence[SelectedRows], config: DataConfig, seed: int
) -> Selection:
    """Select the rows of both sets from all rows of the sources *train* and *evaluation*.

    Raises:
        DataError: a set is left without rows.
    """
    _check_left(train, "the training sources have no rows")
    _check_left(evaluation, "data.eval: the sources have no rows")
    dropped: dict[str, int] = {}
    keys = [part.keys for part in train]
    if isinstance(config.eval, EvalFraction):
        held_out = holdout(keys, config.eval.fraction, seed)
        evaluation = [part[flags] for part, flags in zip(train, held_out, strict=True)]
        train = [part[~flags] for part, flags in zip(train, held_out, strict=True)]
    elif evaluation:
        left = exclude(keys, [part.keys for part in evaluation])
        dropped[EVALUATED] = sum(int((~flags).sum()) for flags in left)
        train = [part[flags] for part, flags in zip(train, left, strict=True)]
        _check_left(train, "every row of data.train is also in data.eval")
    train, notes = _sample(train, config.train, seed, "an epoch")
    if isinstance(config.eval, EvalFraction):
        evaluation = [_sample_alike(*pair, seed) for pair in zip(evaluation, train, strict=True)]
    else:
        evaluation, eval_notes = _sample(evaluation, config.eval or [], seed, "the evaluation")
        notes += eval_notes
    dropped[NOT_SAMPLED] = sum(int((part.times == 0).sum()) for part in (*train, *evaluation))
    dropped = {reason: number for reason, number in dropped.items() if number}
    sets = [[part[part.times > 0] for part in parts] for parts in (train, evaluation)]
    return Selection(sets[0], sets[1], dropped, notes)


def _check_left(parts: Sequence[SelectedRows], problem: str) -> None:
    """Raise if there are *parts*, and none has a row."""
    if parts and not any(len(part.rows) for part in parts):
        raise DataError(problem)


def _sample(
    parts: Sequence[SelectedRows], sources: Sequence[SourceConfig], seed: int, whole: str
) -> tuple[list[SelectedRows], list[str]]:
    """All *parts*, each row as often in the *whole* as its source says, and status lines about it."""
    targets = target_rows([len(part.rows) for part in parts], sources)
    sampled: list[SelectedRows] = []
    notes: list[str] = []
    for part, source, target in zip(parts, sources, targets, strict=True):
        size = len(part.rows)
        if source.share is not None and not size:
            raise DataError(f"data source {source.path}: has no rows to train, and so cannot have a share of them")
        sampled.append(replace(part, times=sample_times(part.keys, target, seed)))
        if target != size:
            note = f"{source.path}: {int((sampled[-1].times > 0).sum()):,} of {count(size, 'row')} sampled"
            notes.append(f"{note}, as {target:,} of {sum(targets):,} in {whole} ({target / sum(targets):.1%})")
    return sampled, notes


def _sample_alike(part: SelectedRows, trained: SelectedRows, seed: int) -> SelectedRows:
    """The rows of *part* as often as those of its source that are *trained*, but once at most."""
    rate = min(1.0, float(trained.times.mean())) if len(trained.times) else 1.0
    target = max(1, round(len(part.rows) * rate)) if len(part.rows) else 0
    return replace(part, times=sample_times(part.keys, target, seed))
