"""The training loss: the mean over all trained tokens of an optimizer step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from sftcore.types import IGNORE_INDEX


@dataclass
class TokenMean:
    """Cross entropy, divided by the number of trained tokens in the whole step.

    Every trained token weighs the same, however rows are spread over accumulation steps and
    ranks. It is used for every model, because a model's own loss may be a mean per batch.
    What is evaluated is added up, so that the evaluation loss is a mean over tokens too.
    """

    label_smoothing: float = 0.0
    evaluated_sum: float = 0.0
    evaluated_tokens: int = 0

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Return the loss, a scalar in nats per token.

        Args:
            outputs: of the model; ``logits`` has the shape (batch, length, vocabulary).
            labels: int64 of shape (batch, length); ``logits[:, i]`` predicts ``labels[:, i + 1]``.
            num_items_in_batch: trained tokens of the step, over all ranks; by default those of *labels*.
        """
        logits = outputs["logits"].float()
        targets = torch.nn.functional.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:].to(logits.device)
        total = cross_entropy(
            logits.flatten(0, 1),
            targets.flatten(),
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        tokens = int(targets.ne(IGNORE_INDEX).sum())
        if not torch.is_grad_enabled():
            self.evaluated_sum += float(total)
            self.evaluated_tokens += tokens
        return total / (max(tokens, 1) if num_items_in_batch is None else num_items_in_batch)

    def take_evaluated(self) -> tuple[float, int]:
        """Return sum and number of the tokens evaluated since the last call."""
        taken = self.evaluated_sum, self.evaluated_tokens
        self.evaluated_sum, self.evaluated_tokens = 0.0, 0
        return taken
