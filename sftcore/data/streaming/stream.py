"""A stream: rows that are read, labelled and trained as they come; only the rejected ones are written."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sftcore.config.schema import DataConfig
from sftcore.core.errors import DataError
from sftcore.data.batching.packing import PackedSet
from sftcore.data.preparation.blocks import Block, read_blocks
from sftcore.data.preparation.pipeline import PreparedSource
from sftcore.data.preparation.pool import WorkerPool, available_cores
from sftcore.data.preparation.worker import LabelledBlock
from sftcore.data.row_types import Example
from sftcore.data.selection import uniform
from sftcore.data.sources.formats import DataSource
from sftcore.data.sources.rejected import SHOWN, to_quarantine_line
from sftcore.data.tables.account import (
    EVALUATED,
    NOT_REACHED,
    NOT_SAMPLED,
    SURE,
    Account,
    BadRowLimit,
    RowTotals,
    check_labelled,
    make_account,
)
from sftcore.data.tables.examples import Examples, SelectedRows
from sftcore.data.tables.summary import Summary, WarningCounts
from sftcore.data.tables.table import Table
from sftcore.data.training_set import RowOrder, StreamOutcome, TrainingSet
from sftcore.labelling import Labeller

if TYPE_CHECKING:
    from sftcore.data.streaming.torch_dataset import StreamDataset

ROWS = 256  # how many rows a block of a stream has, at most: small ones mix better, and the first comes sooner


@dataclass(frozen=True)
class StreamSource:
    """A source of a stream."""

    source: DataSource
    expected: int = 1  # about how many rows it has; known exactly only once it was read
    rate: float = 1.0  # how often one of its rows is trained in a pass over the data

    @property
    def readings(self) -> int:
        """How often it is read in a pass."""
        return math.ceil(self.rate)

    def share_of(self, reading: int) -> float:
        """The share of its rows that the *reading* of this number trains: all, or in the last one a part."""
        return min(1.0, self.rate - reading)

    def blocks(self, number: int) -> Iterator[Block]:
        """Yield all its rows, unless it is changed meanwhile; *number* is its own."""
        yield from read_blocks(number, self.source.rows, ROWS)
        self.source.rows.check_unchanged()


def interleave(sources: Sequence[StreamSource]) -> Iterator[Block]:
    """Yield the blocks of a pass; the next always comes from the source of which the smallest part was read."""
    blocks = [_read_repeatedly(number, source) for number, source in enumerate(sources)]
    taken = [0] * len(sources)
    left = list(range(len(sources)))
    while left:
        number = min(left, key=lambda at: (taken[at] / (sources[at].expected * sources[at].readings), at))
        if block := next(blocks[number], None):
            taken[number] += len(block.rows)
            yield block
        else:
            left.remove(number)


def _read_repeatedly(number: int, source: StreamSource) -> Iterator[Block]:
    for reading in range(source.readings):
        yield from (block._replace(reading=reading) for block in source.blocks(number))


class ShuffleWindow:
    """Rows that are shuffled or packed together, as items: examples, or rows that several of them share.

    Each window has its own order, by its *number*. ``items`` has the numbers of the examples of each item.
    """

    def __init__(self, parts: Sequence[SelectedRows], number: int, order: RowOrder, packed_length: int | None) -> None:
        self.examples = Examples(parts)
        self._packed = PackedSet(self.examples, packed_length) if packed_length else None
        self.items: Sequence[tuple[int, ...]]
        if self._packed:
            self.items = self._packed.bins.fixed() if order.sequential else self._packed.shuffled(order.seed, number)
        else:
            numbers = np.arange(len(self.examples))
            if not order.sequential:
                rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((order.seed % 2**64, number))))
                numbers = rng.permutation(numbers)
            self.items = [(at,) for at in numbers.tolist()]

    def __iter__(self) -> Iterator[Example]:
        for item in self.items:
            yield self._packed[item] if self._packed else self.examples[item[0]]


class Stream(TrainingSet):
    """The rows of sources, again and again; the same ones in the same order in every process that reads them.

    Rows that are in *evaluation* too are not trained. *sample* has the examples of the first rows, and *first_example*
    is the first of them as a person can read it.
    """

    streaming = True
    weighted = None

    def __init__(
        self,
        sources: Sequence[StreamSource],
        labeller: Labeller,
        config: DataConfig,
        seed: int,
        evaluation: Sequence[PreparedSource],
        sample: Examples,
        first_example: dict[str, Any],
    ) -> None:
        self._sources, self._config, self._seed, self._sample = sources, config, seed, sample
        self._evaluation = evaluation
        self._evaluated = {key for item in evaluation for key in item.cached.table.keys.tolist()}
        self._limit = self._make_limit()
        self._packed_length = config.max_length if config.packing else None
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1")  # on this machine
        processes = config.workers or max(1, available_cores() // ranks)
        size = sum(source.source.rows.size for source in sources)
        self._pool = WorkerPool([source.source for source in sources], labeller, size, processes)
        self._labelled = self._labelled_blocks()
        self._blocks: Iterator[LabelledBlock | None] = self._labelled
        self._quarantine: Path | None = None
        self._iterated = False
        self._windows: deque[ShuffleWindow] = deque()
        self._totals, self._dropped, self._warnings = RowTotals(), Counter[str](), WarningCounts()
        self._summary, self._digest = Summary(worked_example=first_example), hashlib.sha256()
        self._of_source = [RowTotals() for _ in sources]
        self._passes = self._items = self._reached = 0
        self._is_trained: Callable[[int], bool] = lambda item: True
        self._paths = {tuple(source.source.rows.names): source.source.config.path for source in sources}
        self._counts = {path: Counter(rows=0, examples=0, tokens=0, trained=0) for path in self._paths.values()}

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
        self._blocks = chain([next(self._labelled)], self._labelled)

    def close(self) -> None:
        """Stop labelling."""
        self._labelled.close()
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
            self._windows.append(ShuffleWindow(parts, number, order, self._packed_length))
            yield from self._windows[-1]

    def _make_limit(self) -> BadRowLimit:
        """The counter of malformed rows for a pass; those that are evaluated count in each."""
        limit = BadRowLimit(self._config.max_bad_rows)
        for item in self._evaluation:
            limit.add(item.cached.totals, item.names)
        return limit

    def _labelled_blocks(self) -> Generator[LabelledBlock | None, None, None]:
        """Yield each labelled block; None where a pass ends."""
        ahead = -(-self._config.shuffle_buffer // ROWS)
        while True:
            yield from self._pool.map(interleave(self._sources), lambda: True, ahead)
            yield None

    def _collected(self) -> Iterator[list[SelectedRows]]:
        """Yield the rows that are shuffled together."""
        parts: list[SelectedRows] = []
        rows = in_pass = 0
        for block in self._blocks:
            if block is None:
                self._limit.check()
                self._limit = self._make_limit()
                for number in range(len(self._sources)):
                    self._check_labelled(number, 0)
                if not in_pass:
                    account = self._account()
                    reasons = [*account.rejected.items(), *Counter(account.dropped).most_common()][:SHOWN]
                    shown = ", ".join(f"{number:,} {reason}" for reason, number in reasons)
                    raise DataError(f"no token of any row (of {account.read:,}) is trained: {shown}")
                if parts:
                    yield parts
                self._passes += 1
                parts, rows, in_pass = [], 0, 0
                continue
            part = self._selected(block)
            in_pass += len(part.rows)
            while len(part.rows):
                room = self._config.shuffle_buffer - rows
                parts.append(part[:room])
                rows += len(parts[-1].rows)
                part = part[room:]
                if rows == self._config.shuffle_buffer:
                    yield parts
                    parts, rows = [], 0

    def _check_labelled(self, number: int, least: int) -> None:
        """Check all that was read of the source of this *number*, if that is at *least* this many rows."""
        source, totals = self._sources[number].source, self._of_source[number]
        if totals.read >= least:
            check_labelled(source.config.path, totals, source.rows.names, self._config.max_unlabelled)

    def _selected(self, block: LabelledBlock) -> SelectedRows:
        """The rows of a block that are trained; all others are counted."""
        source, names = self._sources[block.source], self._sources[block.source].source.rows.names
        self._totals.add(block.totals)
        self._of_source[block.source].add(block.totals)
        self._check_labelled(block.source, SURE)
        if not block.reading:
            if self._quarantine and block.rejected and not self._passes:
                with self._quarantine.open("a", encoding="utf-8") as file:
                    file.writelines(f"{to_quarantine_line(line, names)}\n" for line in block.rejected)
            self._limit.add(block.totals, names)
            if self._limit.is_exceeded():
                self._limit.check()
        part = SelectedRows.all_of(Table([block.table]), names)
        keys, share = part.table.keys, source.share_of(block.reading)
        evaluated = np.fromiter((key in self._evaluated for key in keys.tolist()), bool, len(keys))
        sampled = np.ones(len(keys), bool)
        if share < 1:  # as selection.sample_times does
            sampled = uniform(keys, f"draw {self._seed}") < np.uint64(share * 2.0**64)
        self._dropped[EVALUATED] += int(evaluated.sum())
        self._dropped[NOT_SAMPLED] += int((~evaluated & ~sampled).sum())
        part = part[~evaluated & sampled]
        self._warnings.add(part)
        return part[self._summary.add_dropped(part)]

    def trained(self, steps: int, per_step: int, untrained: Set[int]) -> None:
        """Note that *steps* of *per_step* items are over by now; a window is counted once all of it is.

        *untrained* has the numbers of the steps whose update was skipped.
        """
        self._reached = items = steps * per_step
        self._is_trained = lambda item: item // per_step + 1 not in untrained
        while self._windows and self._items + len(self._windows[0].items) <= items:
            window = self._windows.popleft()
            self._count(window, len(window.items))

    def _count(self, window: ShuffleWindow, items: int) -> None:
        """Count those of the first *items* of *window* that were trained."""
        examples, summary = window.examples, self._summary
        trained = [at for at in range(items) if self._is_trained(self._items + at)]
        numbers = np.array([number for at in trained for number in window.items[at]], np.int64)
        self._items += items
        counts = examples.counts_of(numbers)
        for part, count_of_part, rows in zip(examples.parts, counts, examples.rows_of(numbers), strict=True):
            path = self._paths[tuple(part.names)]
            self._counts[path].update(count_of_part)
            summary.kept += len(rows)
            self._digest.update(part.table.digests[rows].tobytes())

    def outcome(self) -> StreamOutcome:
        """The account of all rows, once the last item is trained."""
        if self._windows and self._reached > self._items:
            self._count(self._windows[0], self._reached - self._items)
        self._windows.clear()
        summary = self._summary
        summary.sources = [{"path": path, **counts} for path, counts in self._counts.items()]
        for name in ("examples", "tokens", "trained"):
            setattr(summary, name, sum(counts[name] for counts in self._counts.values()))
        summary.rows, summary.warnings = summary.kept + summary.dropped, self._warnings.by_name()
        passes = f"{self._passes:,} complete pass{'' if self._passes == 1 else 'es'} over the data"
        unread = self._totals.unread_note("the stream")
        summary.notes = [passes, *self._warnings.texts(), *([unread] if unread else [])]
        if self._config.packing and self._items:
            fill = summary.tokens / (self._items * self._config.max_length)
            summary.add_packing(self._items, fill, self._config.max_length)
        return StreamOutcome(self._account(), summary, self._digest.hexdigest())

    def _account(self) -> Account:
        return make_account([self._totals], self._dropped, self._summary, Summary(), NOT_REACHED)
