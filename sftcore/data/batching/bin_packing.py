"""Which documents share a row: best-fit-decreasing bin packing, by their lengths alone."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]

Pattern: TypeAlias = tuple[tuple[int, int], ...]  # the lengths in a row, each with the number of times


class PackedRows(Sequence[tuple[int, ...]]):
    """Rows of documents: each has the numbers of its documents."""

    def __init__(self, documents: Ints, ends: Ints, order: Ints) -> None:
        self._documents, self._ends, self._order = documents, ends, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> tuple[int, ...]:  # type: ignore[override]  # nothing slices
        row = self._order[index]
        start = self._ends[row - 1] if row else 0
        return tuple(self._documents[start : self._ends[row]].tolist())


class Bins:
    """Rows of at most ``max_length`` tokens, for documents of these *lengths*.

    A row has slots, each for a document of one length. They are found once, by best fit, longest first (Johnson et al.,
    1974), over all documents. Which documents take the slots follows from seed and epoch alone.

    All documents of a length are placed at once, into all rows that are alike. The time grows with the number of
    different lengths, times the logarithm of ``max_length``; only sorting and counting grow with that of documents.

    Raises:
        ValueError: a length is not between 1 and *max_length*.
    """

    def __init__(self, lengths: Sequence[int] | Ints, max_length: int) -> None:
        self.max_length = max_length
        self.lengths: Ints = np.asarray(lengths, dtype=np.int64)
        if len(self.lengths) and not 0 < self.lengths.min() <= self.lengths.max() <= max_length:
            raise ValueError(f"every length must be between 1 and {max_length}")
        values, numbers = np.unique(self.lengths, return_counts=True)
        slots: list[int] = []
        sizes: list[int] = []
        for pattern, rows in _best_fit(zip(values[::-1].tolist(), numbers[::-1].tolist(), strict=True), max_length):
            row = [length for length, times in reversed(pattern) for _ in range(times)]
            slots += row * rows
            sizes += [len(row)] * rows
        self._ends: Ints = np.cumsum(sizes, dtype=np.int64)
        self._slots: Ints = np.argsort(np.array(slots, np.int64), kind="stable")

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def fill(self) -> float:
        """The share of the rows that documents take."""
        return float(self.lengths.sum()) / (len(self) * self.max_length) if len(self) else 1.0

    def shuffled(self, seed: int, epoch: int) -> PackedRows:
        """The rows of *epoch*: documents of one length change places, and the rows are in random order."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed % 2**64, epoch))))
        documents = self._placed(np.lexsort((rng.random(len(self.lengths)), self.lengths)))
        return PackedRows(documents, self._ends, np.argsort(rng.random(len(self)), kind="stable"))

    def fixed(self) -> PackedRows:
        """The rows without shuffling, in the order of the first document in each."""
        documents = self._placed(np.argsort(self.lengths, kind="stable"))
        starts = np.concatenate(([0], self._ends))[:-1]
        first = np.minimum.reduceat(documents, starts) if len(self) else starts
        return PackedRows(documents, self._ends, np.argsort(first, kind="stable"))

    def _placed(self, by_length: Ints) -> Ints:
        """The documents row after row, from documents by length, the shortest first."""
        placed: Ints = np.empty_like(by_length)
        placed[self._slots] = by_length
        return placed


def _best_fit(lengths: Iterable[tuple[int, int]], max_length: int) -> Iterator[tuple[Pattern, int]]:
    """Yield the patterns of rows, and how many have each, for *lengths* with their numbers, the longest first."""
    alike: dict[int, list[tuple[Pattern, int]]] = {}  # patterns with the number of rows, by their free tokens
    levels: list[int] = []  # the keys of these, sorted

    def put(pattern: Pattern, free: int, rows: int) -> None:
        if rows and free in alike:
            alike[free].append((pattern, rows))
        elif rows:
            alike[free] = [(pattern, rows)]
            insort(levels, free)

    for length, left in lengths:
        while left:
            at = bisect_left(levels, length)
            free = levels[at] if at < len(levels) else max_length
            times = free // length  # the same row stays the best fit for the next document, until it has no room
            if at < len(levels):
                pattern, rows = alike[free].pop()
                if not alike[free]:
                    del alike[free], levels[at]
            else:
                pattern, rows = (), -(-left // times)
            full = min(rows, left // times)
            put((*pattern, (length, times)), free - times * length, full)
            left -= full * times
            if full < rows:
                if left:
                    put((*pattern, (length, left)), free - left * length, 1)
                    full += 1
                    left = 0
                put(pattern, free, rows - full)
    for free in levels:
        yield from alike[free]


def padding_share(lengths: Sequence[int] | Ints, batch_size: int) -> float:
    """The expected share of padding in batches of *batch_size* documents in random order; exact, not sampled."""
    values, numbers = np.unique(np.asarray(lengths, dtype=np.int64), return_counts=True)
    total = int(numbers.sum())
    up_to = np.cumsum(numbers)

    def longest(size: int) -> float:
        """The expected length of the longest of *size* documents."""
        at_most = np.ones(len(values))  # the probability that all of them are at most this long
        for taken in range(size):
            at_most *= np.maximum(up_to - taken, 0) / (total - taken)
        return float(values @ np.diff(at_most, prepend=0.0))

    whole, rest = divmod(total, min(batch_size, total)) if total else (0, 0)
    padded = sum(times * size * longest(size) for times, size in ((whole, min(batch_size, total)), (1, rest)) if size)
    return 1 - float(values @ numbers) / padded if padded else 0.0
