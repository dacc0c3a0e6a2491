"""A guard against losses and gradients that are NaN or infinite: their rows are named, and their steps not taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sftcore.config.schema import NonFiniteConfig
from sftcore.core.errors import SftError
from sftcore.distributed.ranks import Ranks
from sftcore.runtime.console import warn

_ROWS_SHOWN = 10
_ADVICE = (
    "Look at the rows, lower training_args.learning_rate, or train in bfloat16 or float32; --resume auto resumes from "
    "the last checkpoint"
)


class NonFiniteGuard:
    """Decides before each optimizer step whether it may be taken.

    Attributes:
        untrained: numbers of the steps of the whole run whose update was skipped, for this or another reason.
        skipped_steps: how many of them were skipped because they are not finite.
        skipped_in_a_row: how many of the last steps were skipped.
    """

    def __init__(self, config: NonFiniteConfig, ranks: Ranks) -> None:
        self._config, self._ranks = config, ranks
        self._enabled = config.action != "continue"
        self._losses: list[tuple[torch.Tensor, Sequence[str]]] = []
        self.untrained: set[int] = set()
        self.skipped_steps = self.skipped_in_a_row = 0

    def record_loss(self, loss: torch.Tensor, origins: Sequence[str]) -> None:
        """Record the loss of a batch of the step, and the origins of its rows."""
        if self._enabled:
            self._losses.append((loss, origins))

    def allows_step(self, norm: Any, step: int, scaled: bool) -> bool:
        """Whether step number *step* may be taken, the same on all ranks.

        Args:
            norm: norm of the gradients over all ranks.
            scaled: the loss is scaled for float16, so that infinite gradients are normal: the scale adapts to them.

        Raises:
            SftError: too many steps in a row were skipped.
        """
        losses, self._losses = self._losses, []
        if not self._enabled or self._is_finite(norm, losses, scaled):
            self.skipped_in_a_row = 0
            return True
        self.untrained.add(step)
        self.skipped_steps += 1
        self.skipped_in_a_row += 1
        problem = f"the loss or the gradient of step {step:,} is not finite{self._named_rows(losses)}"
        if self._config.action == "stop" and self.skipped_in_a_row >= self._config.patience:
            raise SftError(
                f"{problem}; these {self.skipped_in_a_row} steps in a row were skipped. {_ADVICE} (non_finite.patience "
                "says how many are tolerated)"
            )
        warn(f"{problem}; the step is skipped ({self.skipped_steps:,} so far)")
        return False

    def _is_finite(self, norm: Any, losses: Sequence[tuple[torch.Tensor, Sequence[str]]], scaled: bool) -> bool:
        if norm is None or bool(torch.isfinite(torch.as_tensor(norm)).all()):
            return True
        return scaled and not self._ranks.any_rank(any(not bool(loss.isfinite().all()) for loss, _ in losses))

    def check_loss(self, loss: torch.Tensor, origins: Sequence[str], step: int) -> None:
        """Check the loss of a batch before its backward pass, for an engine that takes the step within that pass.

        Raises:
            SftError: on all ranks, if the loss of any is not finite.
        """
        if self._enabled and self._ranks.any_rank(not bool(loss.isfinite().all())):
            rows = self._named_rows([(loss.detach(), origins)])
            raise SftError(f"the loss of step {step:,} is not finite{rows}; the backend cannot skip a step. {_ADVICE}")

    def _named_rows(self, losses: Sequence[tuple[torch.Tensor, Sequence[str]]]) -> str:
        """The origins of the rows whose batches have no finite loss, over all ranks; of all rows, if none has."""
        suspects = [row for loss, rows in losses if not bool(loss.isfinite().all()) for row in rows]
        gathered = self._ranks.gather((suspects, [row for _, rows in losses for row in rows]))
        rows = [row for named, _ in gathered for row in named] or [row for _, every in gathered for row in every]
        rows = list(dict.fromkeys(rows))
        more = f" and {len(rows) - _ROWS_SHOWN:,} more" if len(rows) > _ROWS_SHOWN else ""
        return f" (rows {', '.join(rows[:_ROWS_SHOWN])}{more})" if rows else ""
