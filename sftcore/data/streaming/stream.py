"""Rows that are read, labelled and trained as they come; nothing is kept of them but those that are refused."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sftcore.config.schema import DataConfig
from sftcore.core.errors import DataError
from sftcore.data.batching.packing import PackedSet
from sftcore.data.preparation.blocks import Block
from sftcore.data.preparation.cache import Totals, quarantined
from sftcore.data.preparation.pool import Workers, cores
from sftcore.data.preparation.worker import Done
from sftcore.data.row_types import Example
from sftcore.data.selection.key_hash import numbers
from sftcore.data.sources import rejected
from sftcore.data.streaming.interleave import ROWS, Feed, interleaved
from sftcore.data.streaming.shuffle_window import Window
from sftcore.data.tables.account import EVALUATED, NOT_DRAWN, TOO_LONG, UNTRAINED, Account
from sftcore.data.tables.examples import Examples, Part
from sftcore.data.tables.summary import Summary, count_warnings, warning_texts
from sftcore.data.tables.table import Flags, Table
from sftcore.data.training_set import RowOrder, StreamOutcome, TrainingSet
from sftcore.labelling import Labeller, LabelWarning
from sftcore.runtime.console import count

if TYPE_CHECKING:
    from sftcore.data.streaming.torch_dataset import StreamDataset

LEFT = "read, but not trained before the run ended"
"""What an account says of rows that were still waiting."""


class BadRows:
    """Counts the bad rows of a pass, and ends the run when it does not bear them.

    Args:
        before: what became of the evaluation rows, which count too.
    """

    def __init__(self, most: float, before: Totals, first: Sequence[rejected.Refusal]) -> None:
        self._most, self._before, self._named = most, before, list(first)
        self.begin()

    def begin(self) -> None:
        """Begin with a pass."""
        self._totals, self._first = Totals(), list(self._named)
        self._totals.add(self._before)

    def add(self, done: Done) -> None:
        """Count the rows of a block.

        Raises:
            DataError: there are too many bad ones, however many rows are still to come.
        """
        self._first = [*self._first, *done.bad][: rejected.SHOWN]
        self._totals.add(Totals.of(done))
        if not 0 < self._most < 1:
            self.end()

    def end(self) -> None:
        """End with a pass.

        Raises:
            DataError: too large a share of its rows is bad.
        """
        rejected.check(self._first, self._totals.bad, self._totals.read, self._most)


class Stream(TrainingSet):
    """The rows of sources, again and again; the same ones in the same order in every process that reads them.

    Args:
        evaluated: keys of rows that are not trained, because they are evaluated.
        bad: counts bad rows.
        sample: examples of the first rows.
        worked: the first of them, as a person can read it.
    """

    streaming = True
    weighted = None

    def __init__(
        self,
        feeds: Sequence[Feed],
        labeller: Labeller,
        config: DataConfig,
        seed: int,
        evaluated: frozenset[bytes],
        bad: BadRows,
        sample: Examples,
        worked: dict[str, Any],
    ) -> None:
        self._sample = sample
        self._feeds, self._config, self._seed, self._evaluated, self._bad = feeds, config, seed, evaluated, bad
        processes = config.workers or max(1, cores() // _ranks_here(os.environ))
        size = sum(feed.reading.size for feed in feeds)
        self._workers = Workers([feed.task for feed in feeds], labeller, size, processes)
        self._arriving = self._arrivals()
        self._first: deque[tuple[Done, int] | None] = deque()
        self._quarantine: Path | None = None
        self._begun = False
        self._waiting: deque[Window] = deque()
        self._read = 0
        self._refused: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._warnings: Counter[LabelWarning] = Counter()
        self._details: dict[LabelWarning, str] = {}
        self._summary = Summary(worked_example=worked)
        self._passes = 0
        self._items = self._reached = 0
        self._digest = hashlib.sha256()

    @cached_property
    def packed(self) -> PackedSet | None:
        """The rows that its first examples share; None without packing."""
        return PackedSet(self._sample, self._config.max_length) if self._config.packing else None

    def to_dataset(self, pad_token_id: int, order: RowOrder, steps: int) -> StreamDataset:
        """As many items as are trained."""
        from sftcore.data.streaming.torch_dataset import StreamDataset

        return StreamDataset(self, order, steps)

    def start(self) -> None:
        """Start to label, in processes that are forked now."""
        self._workers.__enter__()
        self._first.append(next(self._arriving))

    def close(self) -> None:
        """Stop labelling."""
        self._arriving.close()
        self._workers.__exit__()

    def save_rejected(self, path: Path) -> None:
        """Append rows to the file *path* as they are rejected."""
        self._quarantine = path

    def items(self, order: RowOrder) -> Iterator[Example]:
        """Yield what is trained, without end; this can be asked for once.

        Raises:
            DataError: a source cannot be read, there are too many bad rows, or nothing to train.
        """
        assert not self._begun
        self._begun = True
        for number, parts in enumerate(self._windows()):
            window = Window(parts, number, order, self._config.max_length if self._config.packing else None)
            self._waiting.append(window)
            yield from window

    def _arrivals(self) -> Generator[tuple[Done, int] | None, None, None]:
        """Yield what becomes of each block, with the number of the reading of its source; None where a pass ends."""
        ahead = -(-self._config.shuffle_buffer // ROWS)
        while True:
            readings: deque[int] = deque()

            def noted(readings: deque[int] = readings) -> Iterator[Block]:
                for block, reading in interleaved(self._feeds):
                    readings.append(reading)
                    yield block

            for done in self._workers.map(noted(), lambda: True, ahead):
                yield done, readings.popleft()
            yield None

    def _arrived(self) -> Iterator[tuple[Done, int] | None]:
        while True:
            yield self._first.popleft() if self._first else next(self._arriving)

    def _windows(self) -> Iterator[list[Part]]:
        """Yield so many rows at a time as are shuffled together."""
        parts: list[Part] = []
        rows = there = 0
        for arrived in self._arrived():
            if arrived is None:
                self._bad.end()
                self._bad.begin()
                if not there:
                    raise DataError(f"no token of any row (of {self._read:,}) is trained: {self._told()}")
                if parts:
                    yield parts
                self._passes += 1
                parts, rows, there = [], 0, 0
                continue
            part = self._taken(*arrived)
            while len(part.rows):
                there += len(part.rows)
                room = self._config.shuffle_buffer - rows
                taken, part = _divided(part, room)
                parts.append(taken)
                rows += len(taken.rows)
                if rows == self._config.shuffle_buffer:
                    yield parts
                    parts, rows = [], 0

    def _taken(self, done: Done, reading: int) -> Part:
        """Return the rows of a block that are trained, and count all others."""
        assert done.table is not None
        feed = self._feeds[done.source]
        names = feed.task.names
        self._read += done.read
        if self._quarantine and done.lines and not self._passes and not reading:
            with self._quarantine.open("a", encoding="utf-8") as file:
                file.writelines(f"{quarantined(line, names)}\n" for line in done.lines)
        totals = Totals.of(done)
        self._refused += Counter(totals.bad) + Counter(totals.unlabelled)
        if not reading:
            self._bad.add(done)
        table = Table([done.table])
        also = np.fromiter((key in self._evaluated for key in table.keys.tolist()), bool, len(table))
        drawn = self._drawn(table, feed.part_of(reading))
        left = np.flatnonzero(~also & drawn)
        self._dropped[EVALUATED] += int(also.sum())
        self._dropped[NOT_DRAWN] += int((~also & ~drawn).sum())
        part = Part(table, names, left, np.ones(len(left), np.int64))
        empty = table.examples[left] == 0
        too_long = int((empty & table.too_long[left]).sum())
        self._dropped[TOO_LONG] += too_long
        self._dropped[UNTRAINED] += int(empty.sum()) - too_long
        self._summary.rows += int(empty.sum())
        self._summary.dropped += int(empty.sum())
        self._summary.too_long += too_long
        self._summary.longest = max(self._summary.longest, int(table.longest[left].max(initial=0)))
        count_warnings(part, self._warnings, self._details)
        return Part(table, names, left[~empty], part.times[~empty])

    def _drawn(self, table: Table, share: float) -> Flags:
        """Tell for each row whether it is among the *share* of them that is drawn, as in ``sampling.draw``."""
        if share == 1:
            return np.ones(len(table), bool)
        chosen: Flags = numbers(table.keys, f"draw {self._seed}") < np.uint64(share * 2.0**64)
        return chosen

    def trained(self, items: int) -> None:
        """So many items are trained by now; what is trained of each window is counted once it is over."""
        self._reached = items
        while self._waiting and self._items + len(self._waiting[0]) <= items:
            window = self._waiting.popleft()
            self._count(window, len(window))

    def _count(self, window: Window, items: int) -> None:
        found = window.trained(items)
        rows = sum(map(len, found.rows))
        self._items += found.items
        self._summary.rows += rows
        self._summary.kept += rows
        self._summary.examples += found.examples
        self._summary.tokens += found.tokens
        self._summary.trained += found.trained
        for part, here in zip(window.parts, found.rows, strict=True):
            self._digest.update(part.table.digests[here].tobytes())

    def outcome(self) -> StreamOutcome:
        """What became of all rows, once the last item is trained."""
        if self._waiting and self._reached > self._items:
            self._count(self._waiting[0], self._reached - self._items)
        self._waiting.clear()
        summary = self._summary
        summary.warnings = {warning.name.lower(): times for warning, times in self._warnings.items()}
        passes = f"{self._passes:,} whole pass{'' if self._passes == 1 else 'es'} over the data"
        summary.notes = [passes, *warning_texts(self._warnings, self._details)]
        if self._config.packing and self._items:
            fill = summary.tokens / (self._items * self._config.max_length)
            summary.packing = {"rows_before": summary.examples, "rows": self._items, "fill": fill}
            summary.notes.append(
                f"{count(summary.examples, 'example')} packed into {count(self._items, 'row')} of "
                f"{self._config.max_length} tokens, {fill:.2%} full"
            )
        left = self._read - summary.kept - self._refused.total() - self._dropped.total()
        dropped = {why: rows for why, rows in {**self._dropped, LEFT: left}.items() if rows}
        account = Account(self._read, summary.kept, 0, dict(self._refused.most_common()), dropped)
        return StreamOutcome(account, summary, self._digest.hexdigest())

    def _told(self) -> str:
        parts = [*self._refused.most_common(), *self._dropped.most_common()]
        return ", ".join(f"{rows:,} {why}" for why, rows in parts[: rejected.SHOWN] if rows)


def _ranks_here(environ: Mapping[str, str]) -> int:
    """Return how many ranks share the cores of this machine, as launchers tell."""
    return int(environ.get("LOCAL_WORLD_SIZE") or environ.get("LOCAL_SIZE") or "1")


def _divided(part: Part, rows: int) -> tuple[Part, Part]:
    """Return the first *rows* of *part*, and the rest."""
    first = Part(part.table, part.names, part.rows[:rows], part.times[:rows])
    return first, Part(part.table, part.names, part.rows[rows:], part.times[rows:])
