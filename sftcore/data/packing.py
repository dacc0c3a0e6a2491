"""Rows that several whole documents share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sftcore.data.bins import Bins, Rows
from sftcore.types import IGNORE_INDEX, Example


class PackedSet(Sequence[Example]):
    """Documents, joined into rows of at most ``max_length`` tokens when a row is asked for.

    A row is asked for by its number, or by the numbers of its documents: then the answer does not
    depend on the epoch, so that a copy of the set in a worker process is never out of date.
    """

    def __init__(self, documents: Sequence[Example], max_length: int) -> None:
        self.documents = documents
        self.bins = Bins([len(document.input_ids) for document in documents], max_length)
        self.epoch = 0
        self._rows = self.bins.fixed()

    def __len__(self) -> int:
        return len(self.bins)

    def __getitem__(self, row: int | tuple[int, ...]) -> Example:  # type: ignore[override]  # nothing slices
        return join([self.documents[number] for number in (row if isinstance(row, tuple) else self._rows[row])])

    def set_epoch(self, epoch: int) -> None:
        """Go to *epoch*; accelerate calls this before each, also where a run resumes in the middle of one."""
        self.epoch = epoch


class Shuffled:
    """A sampler: the rows of the set's epoch, drawn anew for each, as numbers of documents."""

    def __init__(self, rows: PackedSet, seed: int) -> None:
        self.rows = rows
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        drawn: Rows = self.rows.bins.drawn(self.seed, self.rows.epoch)
        return iter(drawn)


def join(parts: Sequence[Example]) -> Example:
    """Return *parts* as one row.

    ``lengths`` keeps where each begins, from which the collator makes position ids that start anew.
    The first label of a document is ignored: no token of another document predicts it.
    """
    labels: list[int] = []
    for part in parts:
        labels += [IGNORE_INDEX, *part.labels[1:]]
    weighted = any(part.weights is not None for part in parts)
    return Example(
        input_ids=[token for part in parts for token in part.input_ids],
        labels=labels,
        lengths=[length for part in parts for length in part.lengths],
        origins=[origin for part in parts for origin in part.origins],
        weights=[weight for part in parts for weight in (0.0, *weights_of(part)[1:])] if weighted else None,
    )


def weights_of(example: Example) -> Sequence[float]:
    """Return what each token of *example* weighs in the loss, also where each trained one weighs 1."""
    if example.weights is not None:
        return example.weights
    return [float(label != IGNORE_INDEX) for label in example.labels]
