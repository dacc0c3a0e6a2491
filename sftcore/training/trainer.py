"""The trainer: transformers' loop, with a loss per token, a guard against non-finite steps, and stops at any moment."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from sftcore.checkpoint import rng_state
from sftcore.core.errors import SftError
from sftcore.core.types import IGNORE_INDEX
from sftcore.data.training_set import Progress, RowOrder
from sftcore.runtime.console import count
from sftcore.runtime.signals import Stopped, StopRequest
from sftcore.training.checkpointing import CheckpointingTrainer
from sftcore.training.loss import TokenMeanLoss


class SftTrainer(CheckpointingTrainer):
    """The Trainer for a loss that is a mean over tokens, and for runs that can stop anywhere.

    Attributes:
        batch_shape: rows and tokens per row of the last batch.
    """

    def __init__(self, *, loss: TokenMeanLoss, method: Any, stop: StopRequest, **kwargs: Any) -> None:
        super().__init__(compute_loss_func=loss, **kwargs)
        self._loss, self._method, self._stop = loss, method, stop
        self._batch_origins: list[str] = []
        self.batch_shape: tuple[int, int] | None = None
        self._save_later = False

    # ---- optimizer and order of rows ----

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The method's own optimizer, or the one that the training arguments name."""
        if self.optimizer is None:
            self.optimizer: Any = self._method.optimizer(self.model, self.args)
        return super().create_optimizer(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The order of the rows, the same for any number of ranks; not called for a stream."""
        rows = self.train_dataset if train_dataset is None else train_dataset
        return rows.sampler(self._rows_at_once(self.args.train_batch_size))

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return eval_dataset.sampler(self._rows_at_once(self.args.eval_batch_size))

    def _rows_at_once(self, batch_size: int) -> int:
        """Rows that all ranks take together, a batch each; on a single rank the last batch may be smaller."""
        size = self._ranks.size
        return batch_size * size if size > 1 and not self.args.dataloader_drop_last else 1

    # ---- a step ----

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The batches of a step, and the sum of the weights of the trained tokens over all ranks."""
        self._watchdog.report_phase(f"reading the rows of step {self.state.global_step + 1:,}")
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        unknown = self.train_dataset.weighted is None  # other ranks may have weights in this step, if this one has none
        weights = [_sum_of_weights(batch) for batch in batches if unknown or "loss_weights" in batch]
        if weights:
            same = self.get_tp_size() * self.get_cp_size() * self.get_sp_size()  # ranks that share their batches
            items = self.accelerator.gather(torch.stack(weights).sum().to(device)).sum() / same
        return batches, items

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Train on a batch; the loss of the batch."""
        self._stop.interruptible = False
        self._watchdog.report_phase(f"training in step {self.state.global_step + 1:,}")
        loss = super().training_step(model, self._model_inputs(inputs), *args, **kwargs)
        self._non_finite.record_loss(loss, self._batch_origins)
        return loss

    def _model_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """*inputs* without the weights, which go to the loss before a backend rounds them, and without origins."""
        self.compute_loss_func: Any = partial(self._loss, weights=inputs.get("loss_weights"))
        self._batch_origins = inputs.get("origins", [])
        rows, length = inputs["input_ids"].shape
        self.batch_shape = rows, length
        return {name: values for name, values in inputs.items() if name not in ("loss_weights", "origins")}

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The loss of a batch."""
        loss = super().compute_loss(*args, **kwargs)
        if self._backend.owns_training_step and torch.is_grad_enabled():  # its backward pass takes the step, too
            self._non_finite.check_loss(loss, self._batch_origins, self.state.global_step + 1)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The norm of the gradients, which are dropped if the step must not be taken."""
        norm = super()._get_grad_norm(model, grad_norm)
        scaled = self.args.fp16 or getattr(self.accelerator, "scaler", None) is not None
        if not self._non_finite.allows_step(norm, self.state.global_step + 1, scaled):
            for weight in model.parameters():
                weight.grad = None
        return norm

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the number of skipped steps if there are any.

        A loss that is not finite is logged once, and counts neither in later losses nor in that of the whole training.
        """
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                self._total_loss_scalar = self._logged_loss
                self._exclude_steps_since(self._logged_step)
            self._logged_loss, self._logged_step = self._total_loss_scalar, self._globalstep_last_logged
        skipped = {"skipped_steps": self._non_finite.skipped_steps} if self._non_finite.skipped_steps else {}
        super().log({**logs, **skipped}, *args, **kwargs)

    def _exclude_steps_since(self, step: int) -> None:
        """Exclude the steps after *step* from the loss of the whole training."""
        self._tr_loss.zero_()
        self._initial_global_step += self.state.global_step - step

    # ---- what was trained ----

    def progress(self, order: RowOrder) -> Progress:
        """How far the run has come, whose rows are in this *order*."""
        whole = self._batch_of_ranks(self.args.train_batch_size), self._batch_of_ranks(self.args.eval_batch_size)
        evaluated = any("eval_loss" in line for line in self.state.log_history)
        rows = len(self.eval_dataset) if self.eval_dataset is not None and evaluated else 0
        return Progress(
            self.state.global_step,
            self.get_total_train_batch_size(self.args),
            whole[0],
            order,
            self._non_finite.untrained,
            rows - rows % whole[1],
        )

    def _batch_of_ranks(self, batch_size: int) -> int:
        """Rows of which an incomplete batch is not read; 1 if none is omitted."""
        return batch_size * self._ranks.size if self.args.dataloader_drop_last else 1

    def check_trained(self) -> None:
        """Check that the weights were trained.

        Raises:
            SftError: on all ranks, if no step was taken, or a trained weight is not finite.
        """
        steps = self.state.global_step
        if len(self._non_finite.untrained) >= steps:
            why = f": the update of each of its {count(steps, 'step')} was skipped" if steps else ": no step was taken"
            raise SftError(f"the run has trained nothing{why}; nothing is saved but its checkpoints")
        weights = ((name, getattr(weight, "_local_tensor", weight)) for name, weight in self.model.named_parameters())
        bad = next((name for name, weight in weights if weight.requires_grad and not weight.isfinite().all()), "")
        if self._ranks.any_rank(bool(bad)):
            named = f" ({bad})" if bad else ""
            raise SftError(
                f"the trained weights are not finite{named}, so the model is not saved; with non_finite.action=stop or "
                "skip, the rows of steps that are not finite are named, and the steps skipped"
            )

    # ---- evaluation ----

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch."""
        self._watchdog.report_phase(f"evaluating after step {self.state.global_step:,}")
        if not self._stop.interruptible and self._stop_requested():
            raise EvaluationInterrupted
        return super().prediction_step(model, self._model_inputs(inputs), *args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate, without a change of the random state; the loss is the mean over all tokens."""
        self._loss.pop_evaluated()
        with rng_state.preserved():
            output = super().evaluation_loop(*args, **kwargs)
        sums = torch.tensor([self._loss.pop_evaluated()], dtype=torch.float64, device=self.args.device)
        total, weight = self.accelerator.gather(sums).sum(dim=0).tolist()
        if weight:
            output.metrics[f"{kwargs.get('metric_key_prefix', 'eval')}_loss"] = total / weight
        return output

    # ---- the end of a step ----

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, model: Any, trial: Any, epoch: int, *args: Any, **kwargs: Any
    ) -> None:
        """Log, evaluate and save as due, and stop if requested.

        The Trainer calls this at the end of a step, and again where an epoch or the training ends with that step. A
        checkpoint due at both is written at the second call, so that nothing of a step comes after its checkpoint.
        """
        step = self.state.global_step
        if self.accelerator.optimizer_step_was_skipped:  # the scale of float16 was too large
            self._non_finite.untrained.add(step)
        second = step == self._step_ended
        second_follows = not second and (self.state.epoch == epoch + 1 or step >= self.state.max_steps)
        self._step_ended = step
        if second_follows:
            self._save_later, self.control.should_save = self.control.should_save, False
        elif second:
            self.control.should_save, self._save_later = self.control.should_save or self._save_later, False
        try:
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, epoch, *args, **kwargs)
        except EvaluationInterrupted:
            self._evaluation_due = True
        if self._evaluation_due or (not second_follows and step < self.state.max_steps and self._stop_requested()):
            if self._step_saved != step or self.args.save_only_model:
                self.args.save_only_model = False  # the run is to be resumed from here
                self._save_checkpoint(model, trial)
            raise Stopped(self._stop.reason or "another rank")

    def _stop_requested(self) -> bool:
        """Whether any rank was asked to stop; a collective."""
        return self._ranks.any_rank(self._stop.reason is not None)

    def _run_epoch(self, **kwargs: Any) -> None:
        """Train for an epoch, unless the run resumed from its last step."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> Any:
        if not math.isfinite(self._tr_loss.item()):
            self._exclude_steps_since(self._globalstep_last_logged)
        to_eval = getattr(self.optimizer, "eval", None)
        if callable(to_eval):  # a schedule-free optimizer trains other weights than it evaluates
            to_eval()
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # the last checkpoint remains
        try:
            return super()._finalize_training(trial, num_train_samples, start_time - self._earlier_seconds)
        finally:
            self.args.save_total_limit = limit


class EvaluationInterrupted(Stopped):
    """The run was asked to stop during an evaluation."""


def _sum_of_weights(batch: dict[str, Any]) -> torch.Tensor:
    """The sum of the weights of the trained tokens of *batch*; without weights, their number."""
    if "loss_weights" in batch:
        return batch["loss_weights"][:, 1:].sum()
    return (batch["labels"][:, 1:] != IGNORE_INDEX).sum().float()
