"""The training loss: the mean over all trained tokens of an optimizer step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy, pad

from sftcore.core.types import IGNORE_INDEX


@dataclass
class TokenMeanLoss:
    """Cross entropy, divided by the number of trained tokens of the whole step, or by the sum of their weights.

    So every trained token counts the same (or by its weight), however rows are distributed over accumulation steps and
    ranks. It replaces the loss of the model, which may be a mean per batch. Evaluation losses are summed up, so that
    their mean is one over tokens, too.
    """

    label_smoothing: float = 0.0
    evaluated_sum: float = 0.0
    evaluated_weight: float = 0.0

    def __call__(
        self,
        outputs: Any,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss, a scalar in nats per token.

        Args:
            outputs: of the model; ``logits`` has the shape (batch, length, vocabulary).
            labels: int64 of shape (batch, length); ``logits[:, i]`` predicts ``labels[:, i + 1]``.
            num_items_in_batch: trained tokens of the step over all ranks, or the sum of their weights; by default those
                of *labels*.
            weights: of the tokens of *labels*, float of the same shape, 0 for tokens that are not trained; by default 1
                for each trained token.
        """
        logits = outputs["logits"].float()
        targets = pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:].to(logits.device)
        total = cross_entropy(
            logits.flatten(0, 1),
            targets.flatten(),
            ignore_index=IGNORE_INDEX,
            reduction="sum" if weights is None else "none",
            label_smoothing=self.label_smoothing,
        )
        if weights is None:
            weight = float(targets.ne(IGNORE_INDEX).sum())
        else:
            shifted = pad(weights, (0, 1))[:, 1:].to(logits.device)
            total, weight = (total * shifted.flatten()).sum(), float(shifted.sum())
        if not torch.is_grad_enabled():
            self.evaluated_sum += float(total)
            self.evaluated_weight += weight
        items = torch.as_tensor(weight if num_items_in_batch is None else num_items_in_batch, device=total.device)
        return total / items.where(items != 0, torch.ones_like(items))  # without trained tokens the loss is 0

    def pop_evaluated(self) -> tuple[float, float]:
        """The sums of losses and of token weights evaluated since the last call."""
        sums = self.evaluated_sum, self.evaluated_weight
        self.evaluated_sum, self.evaluated_weight = 0.0, 0.0
        return sums
