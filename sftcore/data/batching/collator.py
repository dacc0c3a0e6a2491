"""From examples to the tensors of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sftcore.core.types import IGNORE_INDEX
from sftcore.data.batching.packing import join, weights_of
from sftcore.data.known_ids import KnownIds
from sftcore.data.row_types import Example

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Collator:
    """Pads a batch on the right.

    A batch of packed rows has ``position_ids`` that restart at every document, and no attention mask: transformers
    builds a block-diagonal mask from these. The padding at the end of a row is a document of its own.
    """

    pad_token_id: int
    packed: bool = False
    flat: bool = False  # join the packed rows of a batch: flash attention separates documents only in one row
    weighted: bool | None = False  # whether all batches have weights; None: a batch has them if an example in it has
    known_ids: KnownIds | None = None  # what the model knows, where the tokenizer has more
    traced: bool = False  # whether a batch has ``origins``, a list of strings: where its rows were read

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """A batch of tensors, all of shape (batch, length).

        ``input_ids``, ``labels`` and ``attention_mask`` or ``position_ids`` are int64; ``loss_weights``,
        where the set has weights, are float32.
        """
        import torch

        if self.known_ids:
            self.known_ids.check(examples)
        if self.flat:
            examples = [join(examples)]
        longest = max(len(example.input_ids) for example in examples)

        def padded(rows: Iterable[ArrayLike], fill: float, dtype: str = "i8") -> torch.Tensor:
            matrix = np.full((len(examples), longest), fill, dtype)
            for row, values in zip(matrix, rows, strict=True):
                array = np.asarray(values)
                row[: len(array)] = array
            return torch.from_numpy(matrix)

        batch: dict[str, Any] = {
            "input_ids": padded((example.input_ids for example in examples), self.pad_token_id),
            "labels": padded((example.labels for example in examples), IGNORE_INDEX),
        }
        if self.packed:
            tails = [[*example.lengths, longest - len(example.input_ids)] for example in examples]
            batch["position_ids"] = padded((np.concatenate([*map(np.arange, row)]) for row in tails), 0)
        else:
            batch["attention_mask"] = padded((np.ones(len(example.input_ids)) for example in examples), 0)
        if self.weighted or (self.weighted is None and any(example.weights is not None for example in examples)):
            batch["loss_weights"] = padded((weights_of(example) for example in examples), 0.0, "f4")
        if self.traced:
            batch["origins"] = [str(origin) for example in examples for origin in example.origins]
        return batch
