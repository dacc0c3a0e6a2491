"""Training: from a base model, a method and examples to a fine-tuned model, by transformers' Trainer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from sftcore.base_model import BaseModel
from sftcore.callbacks import Ask, Metrics, Progress
from sftcore.config import Config
from sftcore.data import Collator, Examples, PackedSet, Shuffled, Stream
from sftcore.isolation import PackingCheck
from sftcore.loss import TokenMean
from sftcore.report import count, say
from sftcore.streamed import Progressed, Streamed, order_of
from sftcore.types import IGNORE_INDEX


class SftTrainer(transformers.Trainer):  # type: ignore[misc]
    """The Trainer with the method's optimizer, weighted tokens, and an evaluation loss that is a mean over tokens."""

    def __init__(self, *, loss: TokenMean, method: Any, **kwargs: Any) -> None:
        super().__init__(compute_loss_func=loss, **kwargs)
        self._loss = loss
        self._method = method

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Return the method's own optimizer, or the one that the training arguments name."""
        if self.optimizer is None:
            self.optimizer: Any = self._method.optimizer(self.model, self.args)
        return super().create_optimizer(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return the order of the rows; those that documents share are drawn anew for each epoch."""
        rows = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(rows, PackedSet) and self.args.train_sampling_strategy == "random":
            return Shuffled(rows, self.args.seed if self.args.data_seed is None else self.args.data_seed)
        return super()._get_train_sampler(train_dataset)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Return the batches of a step, and what the trained tokens of all ranks weigh together."""
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
        return super().training_step(model, self._without_weights(inputs), *args, **kwargs)

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch; its weights go to the loss."""
        return super().prediction_step(model, self._without_weights(inputs), *args, **kwargs)

    def _without_weights(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return *inputs* for the model, and hand their weights to the loss before any backend rounds them."""
        self.compute_loss_func: Any = partial(self._loss, weights=inputs.get("loss_weights"))
        return {name: values for name, values in inputs.items() if name != "loss_weights"}

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate, and put the mean over all tokens in place of the mean of the batches' means."""
        self._loss.take_evaluated()
        output = super().evaluation_loop(*args, **kwargs)
        sums = torch.tensor([self._loss.take_evaluated()], dtype=torch.float64, device=self.args.device)
        total, weight = self.accelerator.gather(sums).sum(dim=0).tolist()
        prefix = kwargs.get("metric_key_prefix", "eval")
        if weight:
            output.metrics[f"{prefix}_loss"] = total / weight
        return output


def _weight(batch: dict[str, Any]) -> torch.Tensor:
    """Return what the trained tokens of *batch* weigh together."""
    if "loss_weights" in batch:
        return batch["loss_weights"][:, 1:].sum()
    return (batch["labels"][:, 1:] != IGNORE_INDEX).sum().float()


def load_model(base: BaseModel, config: Config, args: transformers.TrainingArguments) -> Any:
    """Return the base model, made ready by the method.

    Raises:
        ConfigError: the weights cannot be loaded, or the method cannot use them.
    """
    transformers.set_seed(config.seed)
    model = config.method.prepare(base.load(config.method), args)
    total = sum(_size(weight) for weight in model.parameters())
    trained = sum(_size(weight) for weight in model.parameters() if weight.requires_grad)
    say("model", f"{base.name}\n{trained:,} of {count(total, 'parameter')} trained ({trained / total:.2%})")
    return model


def _size(weight: Any) -> int:
    """Return the number of elements of *weight*, also where it is packed into 4 bits or spread over ranks."""
    if (state := getattr(weight, "quant_state", None)) is not None:
        return int(state.shape.numel())
    return int(getattr(weight, "ds_numel", weight.numel()))


def build_trainer(
    model: Any,
    config: Config,
    args: transformers.TrainingArguments,
    tokenizer: Any,
    rows: Any,
    evaluated: Examples | PackedSet,
) -> tuple[SftTrainer, Ask]:
    """Return the trainer of a run, and the callback that holds the answers to its questions.

    Args:
        rows: to train: ``Examples``, a ``PackedSet`` or a ``Stream``.
        evaluated: to evaluate; may be empty.
    """
    ask = Ask(config.ask.questions, config.ask.max_new_tokens, tokenizer, config.template_kwargs)
    callbacks: list[transformers.TrainerCallback] = [Metrics(Path(args.output_dir)), Progress(), ask]
    if isinstance(rows, Stream):
        weighted, packed = None, config.data.packing
        rows = Streamed(rows, order_of(args, config.data), args.max_steps)
        callbacks.insert(0, Progressed(rows))
    else:
        weighted, packed = rows.weighted or evaluated.weighted, isinstance(rows, PackedSet)
    collator = Collator(tokenizer.pad_token_id, packed, packed and wants_flat_rows(model), weighted)
    if packed:
        first = PackedSet(rows.stream.sample, config.data.max_length) if isinstance(rows, Streamed) else rows
        callbacks.insert(0, PackingCheck(first, collator))
    trainer = SftTrainer(
        loss=TokenMean(label_smoothing=args.label_smoothing_factor),
        method=config.method,
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=evaluated or None,
        data_collator=collator,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    if isinstance(rows, Streamed):
        rows.per_step = trainer.get_total_train_batch_size(args)
    for shown_elsewhere in (transformers.PrinterCallback, transformers.ProgressCallback):
        trainer.remove_callback(shown_elsewhere)
    return trainer, ask


def wants_flat_rows(model: Any) -> bool:
    """Tell whether *model* has a kernel that finds the documents of a packed batch only in a single row."""
    return "flash" in str(getattr(model.config, "_attn_implementation", None))


def set_stops(model: Any, ids: Sequence[int], pad_token_id: int) -> None:
    """Make generation end where a trained turn ends, whatever the base model's settings were."""
    settings = model.generation_config
    own = settings.eos_token_id
    settings.eos_token_id = list(dict.fromkeys([*ids, *([own] if isinstance(own, int) else own or [])]))
    settings.pad_token_id = pad_token_id
