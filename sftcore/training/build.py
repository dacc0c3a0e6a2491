"""Building the trainer of a run from a base model, a method and training sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from sftcore.checkpoint.writer import CheckpointWriter
from sftcore.config.fields import to_mapping
from sftcore.config.schema import Config
from sftcore.core.components import Method
from sftcore.core.errors import ConfigError
from sftcore.data import Collator, Prepared, RowOrder
from sftcore.distributed.watchdog import Watchdog
from sftcore.models.base_model import BaseModel
from sftcore.models.chat_template import ModelSetup, split_stops
from sftcore.models.generation_settings import repair
from sftcore.runtime.console import count, status, warn
from sftcore.runtime.redaction import redact
from sftcore.runtime.signals import StopRequest
from sftcore.training.arguments import check_optimizer_targets
from sftcore.training.callbacks import MetricsWriter, ProgressBar, SampleQuestions
from sftcore.training.loss import TokenMeanLoss
from sftcore.training.non_finite import NonFiniteGuard
from sftcore.training.packing_check import PackingCheck
from sftcore.training.resume import held_values
from sftcore.training.trainer import SftTrainer

_LOW_PRECISION = {torch.bfloat16: 256, torch.float16: 2048}
"""Types of weights whose updates may be rounded away, and the inverse of the least relative change."""

_COMPENSATED = ("adamw_anyprecision", "stable_adamw")
"""Optimizers that sum up what is rounded away."""


def _load_model(base: BaseModel, config: Config, args: transformers.TrainingArguments) -> Any:
    """Load the base model and let the method prepare it for training."""
    transformers.set_seed(config.seed)
    model = config.method.prepare(base.load_model(config.method), args)
    check_optimizer_targets(args, model)
    total = sum(_numel(weight) for weight in model.parameters())
    trained = sum(_numel(weight) for weight in model.parameters() if weight.requires_grad)
    _warn_of_low_precision(model, config, args)
    if not trained:
        raise ConfigError("the method trains no weight of the model: its options leave none")
    if args.use_liger_kernel:
        warn("Liger's fused loss is not used, because the loss is sftcore's own; its other kernels are")
    status("model", f"{base.name}\n{trained:,} of {count(total, 'parameter')} trained ({trained / total:.2%})")
    return model


def _warn_of_low_precision(model: Any, config: Config, args: transformers.TrainingArguments) -> None:
    """Warn if no weight can change, or if weights are trained in a type whose precision their updates are below."""
    if not args.learning_rate:
        warn("training_args.learning_rate is 0: no weight will change")
    low = [weight for weight in model.parameters() if weight.requires_grad and weight.dtype in _LOW_PRECISION]
    if not low or config.backend.owns_training_step or str(getattr(args.optim, "value", args.optim)) in _COMPENSATED:
        return
    kind = str(low[0].dtype).removeprefix("torch.")
    warn(
        f"{count(sum(map(_numel, low)), 'trained weight')} in {kind}: an update of less than about "
        f"1/{_LOW_PRECISION[low[0].dtype]:,} of a weight is rounded away, as most are at a learning rate of "
        f"{args.learning_rate:g}. With model.dtype=float32 none is; training_args.bf16=true then computes in bfloat16. "
        "It takes twice the memory for weights, gradients and optimizer"
    )


def _numel(weight: Any) -> int:
    """Number of elements of *weight*, also if it is packed into 4 bits or sharded over ranks."""
    if (state := getattr(weight, "quant_state", None)) is not None:
        return int(state.shape.numel())
    return int(getattr(weight, "ds_numel", weight.numel()))


class TrainingJob(NamedTuple):
    """The trainer of a run, the parts whose state is saved beside the weights, and that state, as JSON."""

    trainer: SftTrainer
    questions: SampleQuestions
    metrics: MetricsWriter
    progress: ProgressBar
    run_state: Callable[[], dict[str, Any]]
    order: RowOrder


def build_job(
    setup: ModelSetup,
    config: Config,
    args: transformers.TrainingArguments,
    prepared: Prepared,
    checkpoint_writer: CheckpointWriter,
    stop: StopRequest,
    watchdog: Watchdog,
) -> TrainingJob:
    """Load the model of a run and build its trainer, with datasets, collator and callbacks.

    Raises:
        ConfigError: the weights cannot be loaded, or the method cannot use them.
    """
    base, tokenizer, _, labeller, known_ids = setup
    model = _load_model(base, config, args)
    _set_stop_tokens(model, tokenizer, labeller.stops)
    train, evaluation, pad = prepared.train, prepared.eval, tokenizer.pad_token_id
    questions = SampleQuestions(config.ask.questions, config.ask.max_new_tokens, tokenizer, setup.question_prompt)
    metrics, progress = MetricsWriter(Path(args.output_dir)), ProgressBar()
    seed = int(args.seed if args.data_seed is None else args.data_seed)
    order = RowOrder(seed, args.train_sampling_strategy == "sequential")
    dataset = train.to_dataset(pad, order, args.max_steps)
    guard = NonFiniteGuard(config.non_finite, checkpoint_writer.ranks)
    weighted = None if train.weighted is None else bool(train.weighted or evaluation.weighted)
    packed = train.packed is not None
    collator = Collator(pad, packed, packed and needs_flat_rows(model), weighted, known_ids)
    checks = [PackingCheck(train.packed, collator)] if train.packed else []

    def run_state() -> dict[str, Any]:
        return {
            "rows_per_step": trainer.get_total_train_batch_size(args),
            "seed": seed,
            "order": f"{args.train_sampling_strategy}{', whole batches' if args.dataloader_drop_last else ''}",
            "held": held_values(args),
            "optim": str(getattr(args.optim, "value", args.optim)),
            "method": _describe(config.method),
            "data": "" if train.streaming else prepared.fingerprint,  # that of a stream is known at the end
            "layout": config.backend.layout(checkpoint_writer.ranks.size),
            "metrics_bytes": metrics.sync(),
            "asked": questions.answers,
        }

    trainer = SftTrainer(
        loss=TokenMeanLoss(label_smoothing=args.label_smoothing_factor),
        method=config.method,
        backend=config.backend,
        checkpoint_writer=checkpoint_writer,
        stop=stop,
        non_finite=guard,
        watchdog=watchdog,
        run_state=run_state,
        model=model,
        args=args,
        train_dataset=dataset,
        eval_dataset=evaluation.to_dataset(pad, RowOrder()) if evaluation else None,
        data_collator=replace(collator, traced=True),
        processing_class=tokenizer,
        callbacks=[*checks, *dataset.callbacks, metrics, progress, questions],
    )
    for callback in (transformers.PrinterCallback, transformers.ProgressCallback):
        trainer.remove_callback(callback)
    dataset.rows_per_step, dataset.untrained = trainer.get_total_train_batch_size(args), guard.untrained
    return TrainingJob(trainer, questions, metrics, progress, run_state, order)


def _describe(method: Method) -> str:
    """*method* with its options, for comparison; secrets are (redacted), so that they may change."""
    options = to_mapping(method)
    shown = redact(options)
    return repr(method) if shown == options else f"{type(method).__name__}({shown})"


def needs_flat_rows(model: Any) -> bool:
    """Whether the attention of *model* finds the documents of a packed batch in a single row only."""
    return "flash" in str(getattr(model.config, "_attn_implementation", None))


def _set_stop_tokens(model: Any, tokenizer: Any, stops: Sequence[str]) -> None:
    """Add *stops* to the tokens at which generation ends, so that it ends where a trained turn ends."""
    ids, texts = split_stops(tokenizer, stops)
    for text in texts:
        warn(f"the stop string {text!r} is not a token of this tokenizer: the server has to stop at it")
    settings = model.generation_config
    own = settings.eos_token_id
    settings.eos_token_id = list(dict.fromkeys([*ids, *([own] if isinstance(own, int) else own or [])]))
    settings.pad_token_id = tokenizer.pad_token_id
    if message := repair(settings):  # transformers refuses to save invalid ones only now that they were changed
        warn(message)
