"""The trainer: transformers' loop, with what it must not lose and must not do."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from sftcore.checkpoint import rng_state, safe_pickle, tensor_tree
from sftcore.checkpoint.writer import STATE, Keeper
from sftcore.core.components import Backend
from sftcore.core.errors import SftError
from sftcore.core.types import IGNORE_INDEX
from sftcore.data import Even, Evened, PackedSet, shuffled
from sftcore.data.streaming.torch_dataset import Streamed
from sftcore.distributed.ranks import AloneError
from sftcore.distributed.watchdog import Watchdog
from sftcore.runtime.signals import Stop, Stopped
from sftcore.training.loss import TokenMean
from sftcore.training.non_finite import Finite

OPTIMIZER, SCHEDULER = "optimizer.safetensors", "scheduler.safetensors"
"""The files in a checkpoint with the states of optimizer and learning rate schedule."""


class SftTrainer(transformers.Trainer):  # type: ignore[misc]
    """The Trainer, for a loss that is a mean over tokens, and runs that can stop anywhere and go on exactly.

    Args:
        loss: the loss of all models.
        method: whose optimizer is used, where it has one of its own.
        backend: knows what of weights and optimizer is where.
        keeper: writes the checkpoints.
        stop: whether the run was asked to stop.
        finite: looks at losses and gradients.
        watchdog: is told what is being done.
        noted: what else a checkpoint of the run holds, as JSON; called on rank 0.

    Attributes:
        batch: rows and tokens per row of the batch that is worked on.
    """

    def __init__(
        self,
        *,
        loss: TokenMean,
        method: Any,
        backend: Backend,
        keeper: Keeper,
        stop: Stop,
        finite: Finite,
        watchdog: Watchdog,
        noted: Callable[[], dict[str, Any]],
        **kwargs: Any,
    ) -> None:
        super().__init__(compute_loss_func=loss, **kwargs)
        self._loss, self._method, self._keeper, self._stop, self._noted = loss, method, keeper, stop, noted
        self._finite, self._watchdog, self._backend = finite, watchdog, backend
        self._origins: list[str] = []
        self.batch: tuple[int, int] | None = None
        self._ended = self._saved = -1  # the last steps that ended, and that were saved
        self._save_later = False
        self._cut: bool = False  # the evaluation of this step is still to be done
        self._checkpoint: Path | None = None
        self._resumed: dict[str, Any] = {}
        self._began, self._seconds_before = time.time(), 0.0
        self._total_before, self._logged_before = 0.0, 0  # of all losses, when they were last logged
        self.add_callback(_Begun(self))

    # ---- what is trained, and how ----

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Return the method's own optimizer, or the one that the training arguments name."""
        if self.optimizer is None:
            self.optimizer: Any = self._method.optimizer(self.model, self.args)
        return super().create_optimizer(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return the order of the rows, the same for any number of ranks; that of packed ones is drawn with them."""
        rows = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(rows, Evened):
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        whole = rows.rows
        order: Callable[[int], Sequence[Any]]
        if self.args.train_sampling_strategy != "random":
            order = partial(_in_order, len(whole))
        elif isinstance(whole, PackedSet):
            order = partial(whole.bins.drawn, seed)
        else:
            order = partial(shuffled, len(whole), seed)
        return Even(rows, order, self._at_a_time(self.args.train_batch_size))

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        order = partial(_in_order, len(eval_dataset))
        return Even(eval_dataset, order, self._at_a_time(self.args.eval_batch_size))

    def _at_a_time(self, batch: int) -> int:
        """Return how many rows all ranks take at a time, each a batch; of one rank alone the last may be smaller."""
        size = self._keeper.ranks.size
        return batch * size if size > 1 and not self.args.dataloader_drop_last else 1

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Return the batches of a step, and what the trained tokens of all ranks weigh together."""
        self._watchdog.at(f"reading the rows of step {self.state.global_step + 1:,}")
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if isinstance(self.train_dataset, Streamed):  # other ranks may have weights now, even if this one has none
            weights = [_weight(batch) for batch in batches]
        else:
            weights = [_weight(batch) for batch in batches if "loss_weights" in batch]
        if weights:
            same = self.get_tp_size() * self.get_cp_size() * self.get_sp_size()  # ranks that share their batches
            items = self.accelerator.gather(torch.stack(weights).sum().to(device)).sum() / same
        return batches, items

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Train on a batch; its weights go to the loss."""
        self._stop.at_once = False
        self._watchdog.at(f"training in step {self.state.global_step + 1:,}")
        loss = super().training_step(model, self._for_model(inputs), *args, **kwargs)
        self._finite.saw(loss, self._origins)
        return loss

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loss of a batch."""
        loss = super().compute_loss(*args, **kwargs)
        if self._backend.owns_training_step and torch.is_grad_enabled():  # whose backward pass takes the step too
            self._finite.check(loss, self._origins, self.state.global_step + 1)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Return the norm of the gradients, which are thrown away if the step must not be taken."""
        norm = super()._get_grad_norm(model, grad_norm)
        scaled = self.args.fp16 or getattr(self.accelerator, "scaler", None) is not None
        if not self._finite.accepts(norm, self.state.global_step + 1, scaled):
            for weight in model.parameters():
                weight.grad = None
        return norm

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, and say how many steps were left out, if any.

        A loss that is not finite is told where it was, and neither in all later ones nor in that of the whole training.
        """
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                self._tr_loss.zero_()
                self._total_loss_scalar = self._total_before
                self._initial_global_step += self.state.global_step - self._logged_before
            self._total_before, self._logged_before = self._total_loss_scalar, self._globalstep_last_logged
        super().log(
            {**logs, "left_out_steps": self._finite.left_out} if self._finite.left_out else logs, *args, **kwargs
        )

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch; its weights go to the loss."""
        self._watchdog.at(f"evaluating after step {self.state.global_step:,}")
        if not self._stop.at_once and self._asked():
            raise _Cut
        return super().prediction_step(model, self._for_model(inputs), *args, **kwargs)

    def _for_model(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return *inputs* for the model, and hand their weights to the loss before any backend rounds them."""
        self.compute_loss_func: Any = partial(self._loss, weights=inputs.get("loss_weights"))
        self._origins = inputs.get("origins", [])
        rows, length = inputs["input_ids"].shape
        self.batch = rows, length
        return {name: values for name, values in inputs.items() if name not in ("loss_weights", "origins")}

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate, and put the mean over all tokens in place of the mean of the batches' means.

        Nothing that is drawn meanwhile changes the training.
        """
        self._loss.take_evaluated()
        with rng_state.kept():
            output = super().evaluation_loop(*args, **kwargs)
        sums = torch.tensor([self._loss.take_evaluated()], dtype=torch.float64, device=self.args.device)
        total, weight = self.accelerator.gather(sums).sum(dim=0).tolist()
        prefix = kwargs.get("metric_key_prefix", "eval")
        if weight:
            output.metrics[f"{prefix}_loss"] = total / weight
        return output

    # ---- the end of a step ----

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, model: Any, trial: Any, epoch: int, *args: Any, **kwargs: Any
    ) -> None:
        """Log, evaluate and save as it is due, and stop if that was asked for.

        The Trainer calls this at the end of a step, and again where an epoch or the training ends with it. What is due
        at both is saved at the second, so that nothing that belongs to a step comes after its checkpoint.
        """
        step = self.state.global_step
        again = step == self._ended
        last = not again and (self.state.epoch == epoch + 1 or step >= self.state.max_steps)
        self._ended = step
        if last:
            self._save_later, self.control.should_save = self.control.should_save, False
        elif again:
            self.control.should_save, self._save_later = self.control.should_save or self._save_later, False
        try:
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, epoch, *args, **kwargs)
        except _Cut:
            self._cut = True
        if last and not self._cut:
            return
        if self._cut or (step < self.state.max_steps and self._asked()):
            if self._saved != step or self.args.save_only_model:
                self.args.save_only_model = False  # it is to go on from here
                self._save_checkpoint(model, trial)
            raise Stopped(self._stop.asked or "another rank")

    def _asked(self) -> bool:
        """Tell whether any rank was asked to stop; all have to ask this together."""
        return self._keeper.ranks.any(self._stop.asked is not None)

    def _run_epoch(self, **kwargs: Any) -> None:
        """Train for an epoch, unless the checkpoint that the run goes on from was its last."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> Any:
        if not math.isfinite(self._tr_loss.item()):
            self._tr_loss.zero_()
            self._initial_global_step += self.state.global_step - self._globalstep_last_logged
        ready = getattr(self.optimizer, "eval", None)
        if callable(ready):  # a schedule-free one trains other weights than it gives
            ready()
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # the last checkpoint stays
        try:
            return super()._finalize_training(trial, num_train_samples, start_time - self._seconds_before)
        finally:
            self.args.save_total_limit = limit

    # ---- checkpoints ----

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write all that the run needs to go on from here, whole or not at all."""
        self._watchdog.at(f"saving step {self.state.global_step:,}")
        self.store_flos()
        step = self.state.global_step
        self._note_best()
        self._keeper.write(step, self._write, self.args.save_total_limit, self.state.best_model_checkpoint)
        self._saved = step

    def _note_best(self) -> None:
        """Note where the best checkpoint lies: it may be the one that is written now, or have been moved with all."""
        best = self.state.best_global_step
        if best and (best == self.state.global_step or self._keeper.path(best).is_dir()):
            self.state.best_model_checkpoint = str(self._keeper.path(best))

    def _write(self, folder: Path) -> None:
        """Write the files of a checkpoint that are this rank's."""
        if not self._backend.writes_shards() or self.args.save_only_model:  # else the parts are enough to go on from
            self._write_model(folder)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            _write_json(folder / _of_rank(self._keeper.ranks.rank), self._state_of_rank())
            if self.args.should_save:
                _write_json(folder / STATE, {"evaluation_due": self._cut, **self._noted()})
        if self.args.should_save:
            self.state.save_to_json(str(folder / "trainer_state.json"))

    def _write_model(self, folder: Path) -> None:
        """Write the weights; before an engine writes, whose ranks wait for each other, all hear of a problem."""
        problem: Exception | None = None
        try:
            self.save_model(str(folder), _internal_call=True)
        except Exception as error:
            problem = error
        if self._backend.owns_training_step and self._keeper.ranks.any(problem is not None) and problem is None:
            problem = SftError("another rank could not write the weights")
        if problem is not None:
            raise problem

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write the weights, and no pickle of the arguments: run.json has them as text."""
        super()._save(output_dir, state_dict)
        Path(output_dir or self.args.output_dir, "training_args.bin").unlink(missing_ok=True)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self._backend.owns_training_step:  # which has files of its own, and whose ranks wait for each other
            try:
                super()._save_optimizer_and_scheduler(output_dir)
            except Exception as error:
                raise AloneError(error) from None
            return
        state = self._backend.state(self)
        try:
            if self.args.should_save or self._backend.writes_shards():
                tensor_tree.save(state, Path(output_dir, self._optimizer_file()))
            if self.args.should_save:
                tensor_tree.save(self.lr_scheduler.state_dict(), Path(output_dir, SCHEDULER))
        except TypeError:  # an optimizer with a state of its own kind
            if self._backend.shards_weights:
                raise
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not (path := Path(checkpoint, SCHEDULER)).is_file():
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        try:
            self._restore(Path(checkpoint))
            self.lr_scheduler.load_state_dict(tensor_tree.load(path))
        except (KeyError, ValueError, RuntimeError) as error:
            raise SftError(
                f"{checkpoint} cannot be gone on from: the state of its optimizer or schedule does not fit "
                f"({type(error).__name__}: {error}); were training_args.optim, lr_scheduler_type or the method changed?"
            ) from None

    def _restore(self, checkpoint: Path) -> None:
        self._backend.restore(self, lambda: tensor_tree.load(checkpoint / self._optimizer_file()))

    def _optimizer_file(self) -> str:
        return f"optimizer_{self._keeper.ranks.rank}.safetensors" if self._backend.writes_shards() else OPTIMIZER

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
        if self._backend.shards_weights:  # the weights come with the state
            return
        try:
            super()._load_from_checkpoint(checkpoint, model)
        except _OtherNamesError:
            self._load_converted(checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Raise where transformers would warn: weights that are not loaded are those of the base model."""
        tied = getattr(self.model, "_tied_weights_keys", None) or ()
        shared = {*tied, *(tied.values() if isinstance(tied, dict) else ())}
        if load_result.unexpected_keys or set(load_result.missing_keys) - shared:
            raise _OtherNamesError
        super()._issue_warnings_after_load(load_result)

    def _load_converted(self, checkpoint: str) -> None:
        """Load weights that a checkpoint has in another form than the model, as those of mixtures of experts.

        Raises:
            SftError: they are not those of this model.
        """
        model = self.accelerator.unwrap_model(self.model)
        state = type(model).from_pretrained(checkpoint, dtype=model.dtype).state_dict()
        if state.keys() != model.state_dict().keys():
            raise SftError(f"{checkpoint} does not hold the weights of this model; is the method still the same?")
        model.load_state_dict(state)

    def _load_best_model(self) -> None:
        if self._backend.shards_weights:
            self._restore(Path(self.state.best_model_checkpoint))
            return
        with safe_pickle.refused():
            try:
                super()._load_best_model()
            except _OtherNamesError:
                self._load_converted(str(self.state.best_model_checkpoint))

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        with safe_pickle.refused():  # of an engine's files, too
            return super()._prepare_for_training(*args, **kwargs)

    def _state_of_rank(self) -> dict[str, Any]:
        """Return what this rank alone knows: its random numbers, and sums that were not logged yet."""
        return {
            "ranks": self._keeper.ranks.size,
            "chance": rng_state.state(),
            "loss": self._tr_loss.item(),
            "loss_logged": self._total_loss_scalar,
            "logged_at": self._globalstep_last_logged,
            "not_counted": self._initial_global_step,
            "left_out": [self._finite.left_out, self._finite.in_a_row],
            "seconds": time.time() - self._began + self._seconds_before,
        }

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if "chance" in self._resumed:
            rng_state.restore(self._resumed["chance"])

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """Train, from a checkpoint if one is given."""
        self._checkpoint = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def begin(self) -> None:
        """Bring the sums of the training to what they were at the checkpoint, and do what was still due there."""
        self._began = time.time()
        if (checkpoint := self._checkpoint) is None:
            return
        self.args.eval_on_start = False  # that was done when the run began
        self._resumed = self._state_of(checkpoint)
        self._tr_loss += self._resumed["loss"]
        self._total_loss_scalar = self._resumed["loss_logged"]
        self._globalstep_last_logged = self._resumed["logged_at"]
        self._finite.left_out, self._finite.in_a_row = self._resumed["left_out"]
        self._seconds_before = self._resumed["seconds"]
        self._initial_global_step = self._resumed["not_counted"]
        self._total_before, self._logged_before = self._total_loss_scalar, self._globalstep_last_logged
        self._ended = self._saved = self.state.global_step
        if json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["evaluation_due"]:
            metrics = self._evaluate(None, None)
            self._determine_best_metric(metrics=metrics, trial=None)
        self._note_best()

    def _state_of(self, checkpoint: Path) -> dict[str, Any]:
        """Return what this rank noted; of another number of ranks, what they have in common, and no random numbers."""
        paths = sorted(checkpoint.glob(_of_rank("*")))
        states = {path.name: dict(json.loads(path.read_text(encoding="utf-8"))) for path in paths}
        mine = states.get(_of_rank(self._keeper.ranks.rank))
        if mine and mine["ranks"] == self._keeper.ranks.size:
            return mine
        first = next(iter(states.values()))
        mean = sum(state["loss"] for state in states.values()) / len(states)
        return {**{key: value for key, value in first.items() if key != "chance"}, "loss": mean}


class _OtherNamesError(Exception):
    """The weights of a checkpoint have other names than those of the model."""


class _Cut(Stopped):
    """An evaluation was cut short."""


class _Begun(transformers.TrainerCallback):  # type: ignore[misc]
    """Lets a trainer go on where a checkpoint was written, once the Trainer has set all its sums to zero."""

    def __init__(self, trainer: SftTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.begin()


def _in_order(count: int, epoch: int) -> Sequence[int]:
    return range(count)


def _of_rank(rank: int | str) -> str:
    return f"rank_state_{rank}.json"


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _weight(batch: dict[str, Any]) -> torch.Tensor:
    """Return what the trained tokens of *batch* weigh together."""
    if "loss_weights" in batch:
        return batch["loss_weights"][:, 1:].sum()
    return (batch["labels"][:, 1:] != IGNORE_INDEX).sum().float()
