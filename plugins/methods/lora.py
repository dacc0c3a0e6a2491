"""LoRA with PEFT: low-rank adapters of frozen weights are trained (Hu et al., 2021, arXiv:2106.09685)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from sftcore import ConfigError, Method, further_options

from .lora_names import check_names

_NOT_DONE: dict[tuple[str, object], str] = {
    **{("init_lora_weights", name): "needs data or code to prepare the model" for name in ("eva", "corda", "lora_ga")},
    ("use_qalora", True): "PEFT does it for GPTQ models alone",
}
"""Options that PEFT accepts and would not carry out, with their values, and why."""


@dataclass
class LoRA(Method):
    """Low-rank adapters of the frozen weights are trained."""

    requires: ClassVar[tuple[str, ...]] = ("peft",)
    not_done: ClassVar[dict[tuple[str, object], str]] = _NOT_DONE

    r: int = 16
    """Rank of the matrices."""
    lora_alpha: int = 32
    """Scale: the output of the adapters is multiplied by lora_alpha / r (by lora_alpha / sqrt(r) with use_rslora)."""
    target_modules: str | list[str] = "all-linear"
    """Layers that get adapters: names, a regular expression, or `all-linear` for all but the output layer."""
    loraplus_lr_ratio: float | None = None
    """LoRA+: ratio of the learning rates of the B and A matrices (Hayou et al., 2024, arXiv:2402.12354)."""
    peft: dict[str, Any] = further_options("peft:LoraConfig")

    def __post_init__(self) -> None:
        if self.loraplus_lr_ratio is not None and not 0 < self.loraplus_lr_ratio < math.inf:
            raise ConfigError(f"loraplus_lr_ratio must be a number above 0, not {self.loraplus_lr_ratio:g}")

    def prepare(self, model: Any, args: Any) -> Any:
        from peft import LoraConfig, get_peft_model

        if args.activation_checkpointing:
            model.enable_input_require_grads()  # otherwise no gradient reaches a checkpointed block of frozen weights
        options = {"task_type": "CAUSAL_LM", **copy.deepcopy(self.peft)}  # PEFT changes lists in it
        for (name, value), why in self.not_done.items():
            if options.get(name) == value:
                raise ConfigError(f"{name}: {value!r} would have no effect: {why}")
        try:
            config = LoraConfig(r=self.r, lora_alpha=self.lora_alpha, target_modules=self.target_modules, **options)
            check_names(config, model)
            if next(model.parameters()).is_meta:
                config.init_lora_weights = True  # others compute with the weights, which are not there
            return get_peft_model(model, config)
        except (ValueError, TypeError, ImportError, LookupError, AttributeError) as error:
            raise ConfigError(f"PEFT rejects the options of the method: {error}") from None

    def optimizer(self, model: Any, args: Any) -> Any | None:
        if self.loraplus_lr_ratio is None:
            return None
        from peft.optimizers import create_loraplus_optimizer
        from transformers import Trainer

        optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
        return create_loraplus_optimizer(
            model,
            optimizer_class,
            loraplus_lr_ratio=self.loraplus_lr_ratio,
            loraplus_weight_decay=args.weight_decay,
            **options,
        )
