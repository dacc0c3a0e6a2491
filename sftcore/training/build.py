"""Training: from a base model, a method and examples to a fine-tuned model, by transformers' Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import transformers

from sftcore.checkpoint.writer import Keeper
from sftcore.config.schema import Config
from sftcore.data import Collator, Prepared, RowOrder
from sftcore.distributed.watchdog import Watchdog
from sftcore.models.base_model import BaseModel
from sftcore.runtime.console import count, status
from sftcore.runtime.signals import StopRequest
from sftcore.training.callbacks import Ask, Metrics, Progress
from sftcore.training.loss import TokenMean
from sftcore.training.non_finite import Finite
from sftcore.training.packing_check import PackingCheck
from sftcore.training.trainer import SftTrainer


def load_model(base: BaseModel, config: Config, args: transformers.TrainingArguments) -> Any:
    """Return the base model, made ready by the method.

    Raises:
        ConfigError: the weights cannot be loaded, or the method cannot use them.
    """
    transformers.set_seed(config.seed)
    model = config.method.prepare(base.load_model(config.method), args)
    total = sum(_size(weight) for weight in model.parameters())
    trained = sum(_size(weight) for weight in model.parameters() if weight.requires_grad)
    status("model", f"{base.name}\n{trained:,} of {count(total, 'parameter')} trained ({trained / total:.2%})")
    return model


def _size(weight: Any) -> int:
    """Return the number of elements of *weight*, also where it is packed into 4 bits or spread over ranks."""
    if (state := getattr(weight, "quant_state", None)) is not None:
        return int(state.shape.numel())
    return int(getattr(weight, "ds_numel", weight.numel()))


@dataclass
class Built:
    """The trainer of a run, and what of it is kept beside the weights."""

    trainer: SftTrainer
    ask: Ask
    metrics: Metrics
    progress: Progress
    method: str
    """The method with its options."""
    data: str
    """The fingerprint of what is trained on; empty where it is known only at the end."""
    layout: str
    """How the state is laid out in a checkpoint."""

    def noted(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the run as a whole."""
        args = self.trainer.args
        return {
            "rows_per_step": self.trainer.get_total_train_batch_size(args),
            "seed": args.seed if args.data_seed is None else args.data_seed,
            "order": f"{args.train_sampling_strategy}{', whole batches' if args.dataloader_drop_last else ''}",
            "optim": str(getattr(args.optim, "value", args.optim)),
            "method": self.method,
            "data": self.data,
            "layout": self.layout,
            "metrics": self.metrics.flushed(),
            "asked": self.ask.answers,
        }


def build_trainer(
    model: Any,
    config: Config,
    args: transformers.TrainingArguments,
    tokenizer: Any,
    prepared: Prepared,
    keeper: Keeper,
    stop: StopRequest,
    watchdog: Watchdog,
) -> Built:
    """Return the trainer of a run.

    Args:
        prepared: what is trained and evaluated.
        keeper: writes the checkpoints.
        stop: whether the run was asked to stop.
        watchdog: looks whether it goes on.
    """
    train = prepared.train
    ask = Ask(config.ask.questions, config.ask.max_new_tokens, tokenizer, config.template_kwargs)
    metrics, progress = Metrics(Path(args.output_dir)), Progress()
    seed = args.seed if args.data_seed is None else args.data_seed
    order = RowOrder(seed, args.train_sampling_strategy == "sequential")
    dataset = train.to_dataset(tokenizer.pad_token_id, order, args.max_steps)
    weighted = None if train.weighted is None else bool(train.weighted or prepared.eval.weighted)
    packed = train.packed is not None
    collator = Collator(tokenizer.pad_token_id, packed, packed and wants_flat_rows(model), weighted)
    checks = [PackingCheck(train.packed, collator)] if train.packed else []
    trainer = SftTrainer(
        loss=TokenMean(label_smoothing=args.label_smoothing_factor),
        method=config.method,
        backend=config.backend,
        keeper=keeper,
        stop=stop,
        finite=Finite(config.non_finite, keeper.ranks),
        watchdog=watchdog,
        noted=lambda: built.noted(),
        model=model,
        args=args,
        train_dataset=dataset,
        eval_dataset=prepared.eval.to_dataset(tokenizer.pad_token_id, RowOrder()) if prepared.eval else None,
        data_collator=replace(collator, traced=True),
        processing_class=tokenizer,
        callbacks=[*checks, *dataset.callbacks, metrics, progress, ask],
    )
    data = "" if train.streaming else prepared.fingerprint
    built = Built(trainer, ask, metrics, progress, repr(config.method), data, config.backend.layout(keeper.ranks.size))
    dataset.rows_per_step = trainer.get_total_train_batch_size(args)
    for shown_elsewhere in (transformers.PrinterCallback, transformers.ProgressCallback):
        trainer.remove_callback(shown_elsewhere)
    return built


def wants_flat_rows(model: Any) -> bool:
    """Tell whether *model* has a kernel that finds the documents of a packed batch only in a single row."""
    return "flash" in str(getattr(model.config, "_attn_implementation", None))


def set_stops(model: Any, ids: Sequence[int], pad_token_id: int) -> None:
    """Make generation end where a trained turn ends, whatever the base model's settings were."""
    settings = model.generation_config
    own = settings.eos_token_id
    settings.eos_token_id = list(dict.fromkeys([*ids, *([own] if isinstance(own, int) else own or [])]))
    settings.pad_token_id = pad_token_id
