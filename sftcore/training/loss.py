"""The training loss: the mean over all trained tokens of an optimizer step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy, pad

from sftcore.core.types import IGNORE_INDEX


@dataclass
class TokenMean:
    """Cross entropy, divided by the number of trained tokens in the whole step, or by the sum of their weights.

    Every trained token weighs the same, or as its weight says, however rows are spread over
    accumulation steps and ranks. It is used for every model, because a model's own loss may be a
    mean per batch. What is evaluated is added up, so that the evaluation loss is a mean over
    tokens too.
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
        """Return the loss, a scalar in nats per token.

        Args:
            outputs: of the model; ``logits`` has the shape (batch, length, vocabulary).
            labels: int64 of shape (batch, length); ``logits[:, i]`` predicts ``labels[:, i + 1]``.
            num_items_in_batch: trained tokens of the step, over all ranks, or the sum of their weights;
                by default those of *labels*.
            weights: what the tokens of *labels* weigh, float of the same shape, 0 where nothing is
                trained; by default each trained token weighs 1.
        """
        logits = outputs["logits"].float()
        targets = pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:].to(logits.device)
        if weights is None:
            total = cross_entropy(
                logits.flatten(0, 1),
                targets.flatten(),
                ignore_index=IGNORE_INDEX,
                reduction="sum",
                label_smoothing=self.label_smoothing,
            )
            weight = float(targets.ne(IGNORE_INDEX).sum())
        else:
            shifted = pad(weights, (0, 1))[:, 1:].to(logits.device)
            total, weight = (self._each(logits, targets) * shifted).sum(), float(shifted.sum())
        if not torch.is_grad_enabled():
            self.evaluated_sum += float(total)
            self.evaluated_weight += weight
        items = torch.as_tensor(weight if num_items_in_batch is None else num_items_in_batch, device=total.device)
        return total / items.where(items != 0, torch.ones_like(items))  # where nothing is trained, the loss is 0

    def _each(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the cross entropy of each token, in the shape of *targets*; 0 where it is not trained."""
        logprobs = logits.log_softmax(-1)
        losses = -logprobs.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        if self.label_smoothing:
            losses = (1 - self.label_smoothing) * losses - self.label_smoothing * logprobs.mean(-1)
        return losses.masked_fill(targets.eq(IGNORE_INDEX), 0.0)

    def take_evaluated(self) -> tuple[float, float]:
        """Return the sum of the losses evaluated since the last call, and that of what their tokens weigh."""
        taken = self.evaluated_sum, self.evaluated_weight
        self.evaluated_sum, self.evaluated_weight = 0.0, 0.0
        return taken
