"""The part of the trainer that writes checkpoints and resumes from them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers

from sftcore.checkpoint import rng_state
from sftcore.checkpoint.store import Checkpoint
from sftcore.checkpoint.tensor_tree import load_tree, save_tree
from sftcore.checkpoint.writer import RUN_STATE, CheckpointWriter
from sftcore.core.components import Backend
from sftcore.core.errors import SftError
from sftcore.distributed.ranks import LocalFailureError
from sftcore.distributed.watchdog import Watchdog
from sftcore.runtime.console import count, warn
from sftcore.runtime.variables import environment_variable
from sftcore.training.non_finite import NonFiniteGuard

OPTIMIZER, SCHEDULER = "optimizer.safetensors", "scheduler.safetensors"
"""The files of a checkpoint with the states of optimizer and learning rate schedule."""

_WEIGHTS_ONLY = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
"""Makes ``torch.load`` read pickles of other libraries as tensors and plain classes, whatever its arguments.

Other classes in such files need ``torch.serialization.add_safe_globals``.
"""


class CheckpointingTrainer(transformers.Trainer):  # type: ignore[misc]
    """A Trainer whose checkpoints are complete or absent, hold no pickles of ours, and are resumed from exactly.

    Args:
        run_state: the state of the run as a whole, as JSON; called on rank 0.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        checkpoint_writer: CheckpointWriter,
        non_finite: NonFiniteGuard,
        watchdog: Watchdog,
        run_state: Callable[[], dict[str, Any]],
        **kwargs: Any,
    ) -> None:
        self._use_cache = getattr(kwargs["model"].config, "use_cache", None)  # the Trainer switches it off
        super().__init__(**kwargs)
        self._backend, self._checkpoint_writer, self._run_state = backend, checkpoint_writer, run_state
        self._non_finite, self._watchdog, self._ranks = non_finite, watchdog, checkpoint_writer.ranks
        self._step_ended = self._step_saved = -1  # the last steps that ended, and that were saved
        self._evaluation_due = False  # the evaluation of this step was interrupted
        self._resumed_checkpoint: Path | None = None
        self._weights_folder = ""  # whose weights are being loaded
        self._resumed_state: dict[str, Any] = {}
        self._started_at, self._earlier_seconds = time.time(), 0.0
        self._logged_loss, self._logged_step = 0.0, 0  # sum of all losses and last step when they were logged
        self.add_callback(_ResumeCallback(self))

    # ---- writing ----

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write everything needed to resume from this step, completely or not at all."""
        step = self.state.global_step
        self._watchdog.report_phase(f"saving step {step:,}")
        self.store_flos()
        self._update_best_path()
        self._checkpoint_writer.write(
            step, self._write_checkpoint_files, self.args.save_total_limit, self.state.best_model_checkpoint
        )
        self._step_saved = step

    def _update_best_path(self) -> None:
        """Set the path of the best checkpoint: it may be the one written now, or have been moved with the folder."""
        best = self.state.best_global_step
        if best and (best == self.state.global_step or self._checkpoint_writer.store.path(best).is_dir()):
            self.state.best_model_checkpoint = str(self._checkpoint_writer.store.path(best))

    def _write_checkpoint_files(self, folder: Path) -> None:
        """Write the files of this rank."""
        if not self._backend.writes_shards() or self.args.save_only_model:  # the shards include the weights
            self._write_weights(folder)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            _write_json(folder / _rank_state_file(self._ranks.rank), self._rank_state())
            if self.args.should_save:
                _write_json(folder / RUN_STATE, self._whole_state())
        if self.args.should_save:
            self.state.save_to_json(str(folder / "trainer_state.json"))

    def _whole_state(self) -> dict[str, Any]:
        due, steps = self._evaluation_due, self.state.max_steps
        return {"evaluation_due": due, "max_steps": steps, **self._run_state()}

    def _write_weights(self, folder: Path) -> None:
        """Write the weights; all ranks learn of a failure before an engine makes them wait for each other."""
        problem: Exception | None = None
        try:
            self.save_model(str(folder), _internal_call=True)
        except Exception as error:
            problem = error
        if self._backend.owns_training_step and self._ranks.any_rank(problem is not None) and problem is None:
            problem = SftError("another rank could not write the weights")
        if problem is not None:
            raise problem

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write the weights without a pickle of the arguments: run.json has them as text."""
        config = getattr(self.accelerator.unwrap_model(self.model), "config", None)
        training = getattr(config, "use_cache", None)
        if config is not None and self._use_cache is not None:
            config.use_cache = self._use_cache
        try:
            super()._save(output_dir, state_dict)
        finally:
            if config is not None and self._use_cache is not None:
                config.use_cache = training
        Path(output_dir or self.args.output_dir, "training_args.bin").unlink(missing_ok=True)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self._backend.owns_training_step:  # has files of its own, and its ranks wait for each other
            try:
                super()._save_optimizer_and_scheduler(output_dir)
            except Exception as error:
                raise LocalFailureError(error) from None
            return
        state = self._backend.state(self)
        try:
            if self.args.should_save or self._backend.writes_shards():
                save_tree(state, Path(output_dir, self._optimizer_file()))
            if self.args.should_save:
                save_tree(self.lr_scheduler.state_dict(), Path(output_dir, SCHEDULER))
        except TypeError:  # the optimizer's state has a type of its own
            if self._backend.shards_weights:
                raise
            super()._save_optimizer_and_scheduler(output_dir)

    def _optimizer_file(self) -> str:
        return f"optimizer_{self._ranks.rank}.safetensors" if self._backend.writes_shards() else OPTIMIZER

    def _rank_state(self) -> dict[str, Any]:
        """What only this rank knows: its random states, and sums that were not logged yet."""
        return {
            "world_size": self._ranks.size,
            "rng": rng_state.capture(),
            "loss_sum": self._tr_loss.item(),
            "logged_loss_sum": self._total_loss_scalar,
            "last_logged_step": self._globalstep_last_logged,
            "initial_step": self._initial_global_step,
            "untrained_steps": sorted(self._non_finite.untrained),
            "skipped_steps": self._non_finite.skipped_steps,
            "skipped_in_a_row": self._non_finite.skipped_in_a_row,
            "train_seconds": time.time() - self._started_at + self._earlier_seconds,
        }

    # ---- resuming ----

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        with environment_variable(*_WEIGHTS_ONLY):  # the files of an engine, too
            return super()._prepare_for_training(*args, **kwargs)

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
        self._weights_folder = checkpoint
        if not self._backend.shards_weights:  # otherwise the state includes the weights
            super()._load_from_checkpoint(checkpoint, model)

    def _load_best_model(self) -> None:
        self._check_best_checkpoint()
        self._weights_folder = str(self.state.best_model_checkpoint)
        if self._backend.shards_weights:
            self._load_optimizer(Path(self._weights_folder))
            return
        with environment_variable(*_WEIGHTS_ONLY):
            super()._load_best_model()

    def _check_best_checkpoint(self) -> None:
        """Check that the best checkpoint is there and undamaged; transformers would keep the weights of the last step.

        Raises:
            SftError: on all ranks, if it is not.
        """
        path = Path(str(self.state.best_model_checkpoint))
        problem = Checkpoint.from_folder(path).problem if self._ranks.is_writer else None
        if found := next(filter(None, self._ranks.gather(problem)), None):
            raise SftError(
                f"the best checkpoint, {path}, cannot be loaded: {found}; the model of the last step is in the newest "
                "checkpoint: resume from it with training_args.load_best_model_at_end=false to save that one"
            )

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Load weights that a checkpoint stores under other names than the model, such as mixtures of experts.

        transformers would only warn, and train those of the base model.

        Raises:
            SftError: they are not those of this model.
        """
        tied = getattr(self.model, "_tied_weights_keys", None) or ()
        shared = {*tied, *(tied.values() if isinstance(tied, dict) else ())}
        if not load_result.unexpected_keys and not set(load_result.missing_keys) - shared:
            super()._issue_warnings_after_load(load_result)
            return
        folder, model = self._weights_folder, self.accelerator.unwrap_model(self.model)
        state = type(model).from_pretrained(folder, dtype=model.dtype).state_dict()
        if state.keys() != model.state_dict().keys():
            raise SftError(f"{folder} does not hold the weights of this model; is the method still the same?")
        model.load_state_dict(state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        self._resumed_checkpoint = Path(checkpoint) if checkpoint else None
        if checkpoint is None or not (scheduler := Path(checkpoint, SCHEDULER)).is_file():
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        try:
            self._load_optimizer(Path(checkpoint))
            self.lr_scheduler.load_state_dict(load_tree(scheduler))
        except (KeyError, ValueError, RuntimeError) as error:
            raise SftError(
                f"{checkpoint} cannot be resumed from: the state of its optimizer or schedule does not fit "
                f"({type(error).__name__}: {error}); were training_args.optim, lr_scheduler_type or the method changed?"
            ) from None

    def _load_optimizer(self, checkpoint: Path) -> None:
        self._backend.restore(self, lambda: load_tree(checkpoint / self._optimizer_file()))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if "rng" in self._resumed_state:
            rng_state.restore(self._resumed_state["rng"])

    def restore_sums(self) -> None:
        """Set the sums of the training to those of the checkpoint, and run an evaluation that was interrupted there."""
        self._started_at = time.time()
        if (checkpoint := self._resumed_checkpoint) is None:
            return
        self.args.eval_on_start = False  # done when the run started
        self._resumed_state = state = self._read_rank_state(checkpoint)
        self._tr_loss += state["loss_sum"]
        self._total_loss_scalar = self._logged_loss = state["logged_loss_sum"]
        self._globalstep_last_logged = self._logged_step = state["last_logged_step"]
        self._initial_global_step = state["initial_step"]
        self._non_finite.untrained.update(state["untrained_steps"])
        self._non_finite.skipped_steps = state["skipped_steps"]
        self._non_finite.skipped_in_a_row = state["skipped_in_a_row"]
        self._earlier_seconds = state["train_seconds"]
        self._step_ended = self._step_saved = self.state.global_step
        run_state = json.loads((checkpoint / RUN_STATE).read_text(encoding="utf-8"))
        self._follow_schedule(run_state["max_steps"])
        if run_state["evaluation_due"]:
            metrics = self._evaluate(None, None)
            self._determine_best_metric(metrics=metrics, trial=None)
        self._update_best_path()

    def _follow_schedule(self, steps_before: int) -> None:
        """Report if the checkpoint's run had another number of steps, and set the learning rate of this run's schedule.

        The checkpoint has the rate of that run's schedule, which would be used in the first step.
        """
        step, steps = self.state.global_step, self.state.max_steps
        if step >= steps:
            warn(
                f"the checkpoint has {count(step, 'step')}, and the run is to have {steps:,}: nothing is left to train"
            )
        if steps == steps_before or step >= steps:
            return
        schedule: Any = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)
        before, groups = self._get_learning_rate(), schedule.optimizer.param_groups
        for group, rate, factor in zip(groups, schedule.base_lrs, getattr(schedule, "lr_lambdas", ()), strict=False):
            group["lr"] = rate * factor(schedule.last_epoch)
        schedule._last_lr = [group["lr"] for group in groups]
        if (now := self._get_learning_rate()) != before:
            warn(
                f"the checkpoint is of a run of {count(steps_before, 'step')}, and this one has {steps:,}: its "
                f"learning rate follows the schedule of all {steps:,}, and is now {now:.3g} instead of {before:.3g}"
            )

    def _read_rank_state(self, checkpoint: Path) -> dict[str, Any]:
        """The state of this rank; with another number of ranks, what they share, without random states."""
        paths = sorted(checkpoint.glob(_rank_state_file("*")))
        states = {path.name: dict(json.loads(path.read_text(encoding="utf-8"))) for path in paths}
        own = states.get(_rank_state_file(self._ranks.rank))
        if own and own["world_size"] == self._ranks.size:
            return own
        shared = next(iter(states.values()))
        mean = sum(state["loss_sum"] for state in states.values()) / len(states)
        return {**{key: value for key, value in shared.items() if key != "rng"}, "loss_sum": mean}


class _ResumeCallback(transformers.TrainerCallback):  # type: ignore[misc]
    """Restores the sums of a checkpoint, once the Trainer has set its own to zero."""

    def __init__(self, trainer: CheckpointingTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.restore_sums()


def _rank_state_file(rank: int | str) -> str:
    return f"rank_state_{rank}.json"


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
