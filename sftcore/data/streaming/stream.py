"""A stream: rows that are read, labelled and trained as they come; only the rejected ones are written."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sftcore.config.schema import DataConfig
from sftcore.core.errors import DataError
from sftcore.data.batching.packing import PackedSet
from sftcore.data.preparation.blocks import Block
from sftcore.data.preparation.pool import WorkerPool, available_cores
from sftcore.data.preparation.worker import LabelledBlock
from sftcore.data.row_types import Example
from sftcore.data.selection import uniform
from sftcore.data.sources.rejected import SHOWN
from sftcore.data.streaming.interleave import ROWS, StreamSource, interleave
from sftcore.data.streaming.shuffle_window import ShuffleWindow
from sftcore.data.tables.account import EVALUATED, NOT_SAMPLED, TOO_LONG, UNTRAINED, Account, BadRowLimit
from sftcore.data.tables.examples import Examples, SelectedRows
from sftcore.data.tables.quarantine import to_quarantine_line
from sftcore.data.tables.summary import Summary, count_warnings, warning_texts
from sftcore.data.tables.table import Flags, Table
from sftcore.data.training_set import RowOrder, StreamOutcome, TrainingSet
from sftcore.labelling import Labeller, LabelWarning
from sftcore.runtime.console import count

if TYPE_CHECKING:
    from sftcore.data.streaming.torch_dataset import StreamDataset

NOT_REACHED = "read, but not trained before the run ended"
"""Why rows of an account were dropped that were still waiting."""


class Stream(TrainingSet):
    """The rows of sources, again and again; the same ones in the same order in every process that reads them.

    Args:
        evaluated: keys of rows that are evaluated, and so not trained.
        make_limit: returns the counter of malformed rows for a pass.
        sample: examples of the first rows.
        first_example: the first of them, as a person can read it.
    """

    streaming = True
    weighted = None

    def __init__(
        self,
        sources: Sequence[StreamSource],
        labeller: Labeller,
        config: DataConfig,
        seed: int,
        evaluated: frozenset[bytes],
        make_limit: Callable[[], BadRowLimit],
        sample: Examples,
        first_example: dict[str, Any],
    ) -> None:
        self._sources, self._config, self._seed, self._evaluated = sources, config, seed, evaluated
        self._make_limit, self._limit = make_limit, make_limit()
        self._sample = sample
        processes = config.workers or max(1, available_cores() // _ranks_on_this_machine(os.environ))
        size = sum(source.source.rows.size for source in sources)
        self._pool = WorkerPool([source.source for source in sources], labeller, size, processes)
        self._blocks = self._labelled_blocks()
        self._started: deque[tuple[LabelledBlock, int] | None] = deque()
        self._quarantine: Path | None = None
        self._iterated = False
        self._windows: deque[ShuffleWindow] = deque()
        self._read = 0
        self._rejected: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._warnings: Counter[LabelWarning] = Counter()
        self._details: dict[LabelWarning, str] = {}
        self._summary = Summary(worked_example=first_example)
        self._passes = 0
        self._items = self._reached = 0
        self._digest = hashlib.sha256()

    @property
    def _packed_length(self) -> int | None:
        return self._config.max_length if self._config.packing else None

    @cached_property
    def packed(self) -> PackedSet | None:
        """The rows that its first examples share; None without packing."""
        return PackedSet(self._sample, self._packed_length) if self._packed_length else None

    def to_dataset(self, pad_token_id: int, order: RowOrder, steps: int) -> StreamDataset:
        """As many items as are trained."""
        from sftcore.data.streaming.torch_dataset import StreamDataset

        return StreamDataset(self, order, steps)

    def start(self) -> None:
        """Start to label, in processes that are forked now."""
        self._pool.__enter__()
        self._started.append(next(self._blocks))

    def close(self) -> None:
        """Stop labelling."""
        self._blocks.close()
        self._pool.__exit__()

    def save_rejected(self, path: Path) -> None:
        """Append rows to the file *path* as they are rejected."""
        self._quarantine = path

    def items(self, order: RowOrder) -> Iterator[Example]:
        """Yield what is trained, without end; it can be iterated once.

        Raises:
            DataError: a source cannot be read, there are too many malformed rows, or nothing to train.
        """
        assert not self._iterated
        self._iterated = True
        for number, parts in enumerate(self._collected()):
            window = ShuffleWindow(parts, number, order, self._packed_length)
            self._windows.append(window)
            yield from window

    def _labelled_blocks(self) -> Generator[tuple[LabelledBlock, int] | None, None, None]:
        """Yield each labelled block, with the number of the reading of its source; None where a pass ends."""
        ahead = -(-self._config.shuffle_buffer // ROWS)
        while True:
            readings: deque[int] = deque()

            def noted(readings: deque[int] = readings) -> Iterator[Block]:
                for block, reading in interleave(self._sources):
                    readings.append(reading)
                    yield block

            for block in self._pool.map(noted(), lambda: True, ahead):
                yield block, readings.popleft()
            yield None

    def _collected(self) -> Iterator[list[SelectedRows]]:
        """Yield the rows that are shuffled together."""
        parts: list[SelectedRows] = []
        rows = in_pass = 0
        while True:
            item = self._started.popleft() if self._started else next(self._blocks)
            if item is None:
                self._limit.check()
                self._limit = self._make_limit()
                if not in_pass:
                    raise DataError(f"no token of any row (of {self._read:,}) is trained: {self._reasons()}")
                if parts:
                    yield parts
                self._passes += 1
                parts, rows, in_pass = [], 0, 0
                continue
            part = self._selected(*item)
            in_pass += len(part.rows)
            while len(part.rows):
                taken, part = _split(part, self._config.shuffle_buffer - rows)
                parts.append(taken)
                rows += len(taken.rows)
                if rows == self._config.shuffle_buffer:
                    yield parts
                    parts, rows = [], 0

    def _selected(self, block: LabelledBlock, reading: int) -> SelectedRows:
        """The rows of a block that are trained; all others are counted."""
        assert block.table is not None
        source, totals = self._sources[block.source], block.totals
        names = source.source.rows.names
        self._read += totals.read
        if self._quarantine and block.rejected and not self._passes and not reading:
            with self._quarantine.open("a", encoding="utf-8") as file:
                file.writelines(f"{to_quarantine_line(line, names)}\n" for line in block.rejected)
        self._rejected += Counter(totals.bad) + Counter(totals.unlabelled)
        if not reading:
            self._limit.add(totals, names)
            if self._limit.is_exceeded():
                self._limit.check()
        table = Table([block.table])
        evaluated = np.fromiter((key in self._evaluated for key in table.keys.tolist()), bool, len(table))
        sampled = self._is_sampled(table, source.share_of(reading))
        left = np.flatnonzero(~evaluated & sampled)
        self._dropped[EVALUATED] += int(evaluated.sum())
        self._dropped[NOT_SAMPLED] += int((~evaluated & ~sampled).sum())
        part = SelectedRows(table, names, left, np.ones(len(left), np.int64))
        empty = table.examples[left] == 0
        too_long = int((empty & table.too_long[left]).sum())
        self._dropped[TOO_LONG] += too_long
        self._dropped[UNTRAINED] += int(empty.sum()) - too_long
        self._summary.rows += int(empty.sum())
        self._summary.dropped += int(empty.sum())
        self._summary.too_long += too_long
        self._summary.longest = max(self._summary.longest, int(table.longest[left].max(initial=0)))
        count_warnings(part, self._warnings, self._details)
        return SelectedRows(table, names, left[~empty], part.times[~empty])

    def _is_sampled(self, table: Table, share: float) -> Flags:
        """For each row whether it is in the *share* of them that is sampled, as by ``mixing.sample_times``."""
        if share == 1:
            return np.ones(len(table), bool)
        sampled: Flags = uniform(table.keys, f"draw {self._seed}") < np.uint64(share * 2.0**64)
        return sampled

    def trained(self, items: int) -> None:
        """Note that *items* are trained by now; a window is counted once all of it is trained."""
        self._reached = items
        while self._windows and self._items + len(self._windows[0]) <= items:
            window = self._windows.popleft()
            self._count(window, len(window))

    def _count(self, window: ShuffleWindow, items: int) -> None:
        first = window.first_items(items)
        rows = sum(map(len, first.rows))
        self._items += first.items
        self._summary.rows += rows
        self._summary.kept += rows
        self._summary.examples += first.examples
        self._summary.tokens += first.tokens
        self._summary.trained += first.trained_tokens
        for part, own in zip(window.parts, first.rows, strict=True):
            self._digest.update(part.table.digests[own].tobytes())

    def outcome(self) -> StreamOutcome:
        """The account of all rows, once the last item is trained."""
        if self._windows and self._reached > self._items:
            self._count(self._windows[0], self._reached - self._items)
        self._windows.clear()
        summary = self._summary
        summary.warnings = {warning.name.lower(): times for warning, times in self._warnings.items()}
        passes = f"{self._passes:,} complete pass{'' if self._passes == 1 else 'es'} over the data"
        summary.notes = [passes, *warning_texts(self._warnings, self._details)]
        if self._config.packing and self._items:
            fill = summary.tokens / (self._items * self._config.max_length)
            summary.packing = {"rows_before": summary.examples, "rows": self._items, "fill": fill}
            summary.notes.append(
                f"{count(summary.examples, 'example')} packed into {count(self._items, 'row')} of "
                f"{self._config.max_length} tokens, {fill:.2%} full"
            )
        left = self._read - summary.kept - self._rejected.total() - self._dropped.total()
        dropped = {why: rows for why, rows in {**self._dropped, NOT_REACHED: left}.items() if rows}
        account = Account(self._read, summary.kept, 0, dict(self._rejected.most_common()), dropped)
        return StreamOutcome(account, summary, self._digest.hexdigest())

    def _reasons(self) -> str:
        reasons = [*self._rejected.most_common(), *self._dropped.most_common()]
        return ", ".join(f"{rows:,} {why}" for why, rows in reasons[:SHOWN] if rows)


def _ranks_on_this_machine(environ: Mapping[str, str]) -> int:
    """The number of ranks that share the cores of this machine, as launchers report it."""
    return int(environ.get("LOCAL_WORLD_SIZE") or environ.get("LOCAL_SIZE") or "1")


def _split(part: SelectedRows, rows: int) -> tuple[SelectedRows, SelectedRows]:
    """The first *rows* of *part*, and the rest."""
    first = SelectedRows(part.table, part.names, part.rows[:rows], part.times[:rows])
    return first, SelectedRows(part.table, part.names, part.rows[rows:], part.times[rows:])
