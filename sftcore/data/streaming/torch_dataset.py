"""A stream as torch and the Trainer know it."""

from __future__ import annotations

from collections.abc import Iterator, Set
from itertools import islice
from typing import TYPE_CHECKING, Any

import transformers
from torch.utils.data import IterableDataset

from sftcore.data.row_types import Example
from sftcore.data.training_set import RowOrder

if TYPE_CHECKING:
    from sftcore.data.streaming.stream import Stream


class StreamDataset(IterableDataset):  # type: ignore[misc]
    """As many items of a stream as are trained: to the Trainer they are one epoch, however many passes that takes.

    Each process takes its part of every batch from the same items; accelerate sees to that.
    """

    weighted = None

    def __init__(self, stream: Stream, order: RowOrder, steps: int) -> None:
        self.rows_per_step = 1  # items of an optimizer step, on all ranks together
        self.untrained: Set[int] = frozenset()  # numbers of the steps whose update was skipped
        self.callbacks = [StreamProgress(self)]
        self.stream = stream
        self._order, self._steps = order, steps

    def __len__(self) -> int:
        return self._steps * self.rows_per_step

    def __iter__(self) -> Iterator[Example]:
        return islice(self.stream.items(self._order), len(self))


class StreamProgress(transformers.TrainerCallback):  # type: ignore[misc]
    """Tells the stream how many of its items are trained."""

    def __init__(self, dataset: StreamDataset) -> None:
        self._dataset = dataset

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        dataset = self._dataset
        dataset.stream.trained(state.global_step, dataset.rows_per_step, dataset.untrained)
