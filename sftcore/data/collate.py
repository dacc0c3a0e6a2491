"""From examples to the tensors of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sftcore.types import IGNORE_INDEX, Example

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Collator:
    """Pads a batch on the right.

    A batch of packed rows carries ``position_ids`` that start anew at every document, and no
    attention mask: from these transformers builds a block-diagonal mask.
    """

    pad_token_id: int
    packed: bool = False

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Return ``input_ids``, ``labels`` and ``attention_mask`` or ``position_ids``: int64, (batch, length)."""
        import torch

        longest = max(len(example.input_ids) for example in examples)

        def padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
            return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.long)

        batch: dict[str, Any] = {
            "input_ids": padded([example.input_ids for example in examples], self.pad_token_id),
            "labels": padded([example.labels for example in examples], IGNORE_INDEX),
        }
        if self.packed:
            tails = [[*example.lengths, longest - len(example.input_ids)] for example in examples]
            batch["position_ids"] = torch.tensor([[at for length in row for at in range(length)] for row in tails])
        else:
            batch["attention_mask"] = padded([[1] * len(example.input_ids) for example in examples], 0)
        return batch
