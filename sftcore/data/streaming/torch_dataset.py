"""A stream as torch knows it, and how far the training has come in it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import transformers
from torch.utils.data import IterableDataset

from sftcore.config.schema import DataConfig
from sftcore.data import Order, Stream
from sftcore.data.row_types import Example


def order_of(args: transformers.TrainingArguments, config: DataConfig) -> Order:
    """Return the order of the rows of a stream."""
    seed = args.seed if args.data_seed is None else args.data_seed
    return Order(seed, args.train_sampling_strategy == "sequential", config.max_length if config.packing else None)


class Streamed(IterableDataset):  # type: ignore[misc]
    """As many items of a stream as are trained: to the Trainer they are one epoch, however often the stream begins.

    Each process takes its part of every batch from the same items; so accelerate does it.

    Attributes:
        per_step: items of an optimizer step, on all ranks together.
    """

    def __init__(self, stream: Stream, order: Order, steps: int) -> None:
        self.stream = stream
        self.per_step = 1
        self._order, self._steps = order, steps

    def __len__(self) -> int:
        return self._steps * self.per_step

    def __iter__(self) -> Iterator[Example]:
        return islice(self.stream.items(self._order), len(self))


class Progressed(transformers.TrainerCallback):  # type: ignore[misc]
    """Tells the stream how much of it is trained."""

    def __init__(self, rows: Streamed) -> None:
        self._rows = rows

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._rows.stream.trained(state.global_step * self._rows.per_step)
