"""Rows that several complete documents share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sftcore.core.types import IGNORE_INDEX
from sftcore.data.batching.bin_packing import Bins, PackedRows
from sftcore.data.batching.padded_sampler import MapStyleSet
from sftcore.data.row_types import Example


class PackedSet(MapStyleSet):
    """Documents, joined into rows of at most ``max_length`` tokens when a row is accessed.

    A row is accessed by its number, or by the numbers of its documents, as ``bins.shuffled`` has them for each epoch:
    then it does not depend on the epoch, so that a copy in a worker process is never out of date.
    """

    def __init__(self, documents: Sequence[Example], max_length: int) -> None:
        self.documents = documents
        lengths = getattr(documents, "lengths", None)
        self.bins = Bins([len(part.input_ids) for part in documents] if lengths is None else lengths, max_length)
        self._rows = self.bins.fixed()

    def __len__(self) -> int:
        return len(self.bins)

    def __getitem__(self, row: int | tuple[int, ...]) -> Example:  # type: ignore[override]  # nothing slices
        return join([self.documents[number] for number in (row if isinstance(row, tuple) else self._rows[row])])

    @property
    def weighted(self) -> bool:
        """Whether any trained token weighs other than 1."""
        if isinstance(self.documents, MapStyleSet):
            return bool(self.documents.weighted)
        return any(document.weights is not None for document in self.documents)

    @property
    def packed(self) -> PackedSet:
        """Itself."""
        return self

    def examples_of(self, rows: Sequence[int | tuple[int, ...]]) -> list[int]:
        """The numbers of the documents in *rows*, each once."""
        return super().examples_of([row if isinstance(row, tuple) else tuple(self._rows[row]) for row in rows])

    def shuffled(self, seed: int, epoch: int) -> PackedRows:
        """All rows, their documents exchanged with others of the same length."""
        return self.bins.shuffled(seed, epoch)


def join(parts: Sequence[Example]) -> Example:
    """*parts* as one row.

    ``lengths`` has the length of each document, from which the collator makes position ids that restart. The first
    label of a document is ignored: no token of another document predicts it.
    """
    ids = np.concatenate([part.input_ids for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    firsts = np.cumsum([0, *(len(part.input_ids) for part in parts)])[:-1]
    labels[firsts] = IGNORE_INDEX
    weights = None
    if any(part.weights is not None for part in parts):
        weights = np.concatenate([weights_of(part) for part in parts])
        weights[firsts] = 0.0
    return Example(
        input_ids=ids,
        labels=labels,
        lengths=[length for part in parts for length in part.lengths],
        origins=[origin for part in parts for origin in part.origins],
        weights=weights,
    )


def weights_of(example: Example) -> NDArray[np.float64]:
    """The weight of each token of *example* in the loss, also where each trained one weighs 1."""
    if example.weights is not None:
        return np.asarray(example.weights, np.float64)
    trained: NDArray[np.bool_] = np.asarray(example.labels, np.int64) != IGNORE_INDEX
    return trained.astype(np.float64)
