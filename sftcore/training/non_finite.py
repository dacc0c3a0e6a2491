"""Losses and gradients that are no numbers: told, with the rows they come from, and kept out of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sftcore.config.schema import NonFiniteConfig
from sftcore.core.errors import SftError
from sftcore.distributed.ranks import Ranks
from sftcore.runtime.console import warn

SHOWN = 10
"""Rows that are named, at most."""


class Finite:
    """Looks at every optimizer step before it is taken.

    Attributes:
        left_out: steps that were not taken, in the whole run.
        in_a_row: how many of them were the last ones.
    """

    def __init__(self, config: NonFiniteConfig, ranks: Ranks) -> None:
        self._config, self._ranks = config, ranks
        self._losses: list[tuple[torch.Tensor, Sequence[str]]] = []
        self.left_out = self.in_a_row = 0

    @property
    def looks(self) -> bool:
        """Whether anything is looked at."""
        return self._config.action != "continue"

    def saw(self, loss: torch.Tensor, origins: Sequence[str]) -> None:
        """Note the loss of a batch of the step, and where its rows were read."""
        if self.looks:
            self._losses.append((loss, origins))

    def accepts(self, norm: Any, step: int, scaled: bool) -> bool:
        """Tell whether step number *step* may be taken; all ranks get the same answer.

        Args:
            norm: of the gradients of all ranks together.
            scaled: the loss was scaled up for float16, so that gradients beyond its range are usual: the scale follows.

        Raises:
            SftError: as many steps in a row were not.
        """
        losses, self._losses = self._losses, []
        if not self.looks:
            return True
        fine = norm is None or bool(torch.isfinite(torch.as_tensor(norm)).all())
        if not fine and scaled:
            fine = not self._ranks.any(any(not bool(loss.isfinite().all()) for loss, _ in losses))
        if fine:
            self.in_a_row = 0
            return True
        self.left_out += 1
        self.in_a_row += 1
        told = f"the loss or the gradient of step {step:,} is not finite{self._named(losses)}"
        if self._config.action == "stop" and self.in_a_row >= self._config.patience:
            raise SftError(
                f"{told}; so it was {self.in_a_row} times in a row, and none of these steps was taken. Look at the "
                "rows, lower training_args.learning_rate, or train in bfloat16 or float32; --resume auto goes on from "
                "the last checkpoint (non_finite.patience says how many steps are borne)"
            )
        warn(f"{told}; the step is left out ({self.left_out:,} so far)")
        return False

    def check(self, loss: torch.Tensor, origins: Sequence[str], step: int) -> None:
        """Raise before the gradients of a batch are made, for an engine that takes the step together with them.

        Raises:
            SftError: on all ranks, if the loss of any is not finite.
        """
        bad = self.looks and not bool(loss.isfinite().all())
        if self.looks and self._ranks.any(bad):
            named = self._named([(loss.detach(), origins)])
            raise SftError(
                f"the loss of step {step:,} is not finite{named}; the backend cannot leave out a step. Look at the "
                "rows, lower training_args.learning_rate, or train in bfloat16 or float32; --resume auto goes on from "
                "the last checkpoint"
            )

    def _named(self, losses: Sequence[tuple[torch.Tensor, Sequence[str]]]) -> str:
        """Return where the rows of the batches were read whose losses are not finite; of all, if none of them is."""
        bad = [row for loss, rows in losses if not bool(loss.isfinite().all()) for row in rows]
        found = self._ranks.gathered((bad, [row for _, rows in losses for row in rows]))
        named = [row for mine, _ in found for row in mine] or [row for _, rows in found for row in rows]
        named = list(dict.fromkeys(named))
        more = f" and {len(named) - SHOWN:,} more" if len(named) > SHOWN else ""
        return f" (rows {', '.join(named[:SHOWN])}{more})" if named else ""
