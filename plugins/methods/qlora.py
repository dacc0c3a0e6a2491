"""QLoRA with bitsandbytes and PEFT: LoRA on 4-bit weights (Dettmers et al., 2023, arXiv:2305.14314)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from .lora import LoRA


@dataclass
class QLoRA(LoRA):
    """LoRA on frozen weights that are quantized to 4 bits."""

    requires: ClassVar[tuple[str, ...]] = ("peft", "bitsandbytes")
    not_done: ClassVar[dict[tuple[str, object], str]] = {
        **LoRA.not_done,
        ("init_lora_weights", "loftq"): "it needs weights that are not quantized",
    }

    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """The 4-bit type: NF4 suits normally distributed weights."""
    bnb_4bit_use_double_quant: bool = True
    """Quantize the quantization constants too; saves about 0.4 bits a weight."""

    def load_options(self, dtype: Any) -> dict[str, Any]:
        from transformers import BitsAndBytesConfig

        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.bnb_4bit_quant_type,
            bnb_4bit_use_double_quant=self.bnb_4bit_use_double_quant,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_storage=dtype,
        )
        return {"quantization_config": quantization}

    def prepare(self, model: Any, args: Any) -> Any:
        import bitsandbytes
        from peft import prepare_model_for_kbit_training

        for layer in model.modules():
            if isinstance(layer, bitsandbytes.nn.Linear4bit):
                # On CPUs with AVX512-BF16 an evaluation would repack the weights for a kernel
                # without a backward pass, and training would continue with wrong gradients, silently.
                layer.support_avx512bf16_for_cpu = False
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=args.activation_checkpointing)
        return super().prepare(model, args)
