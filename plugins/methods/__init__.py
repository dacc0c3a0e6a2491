"""The built-in fine-tuning methods."""

from sftcore import hookimpl


@hookimpl
def register_methods() -> dict[str, str]:
    return {
        "full": "sftcore_plugins.methods.full:Full",
        "lora": "sftcore_plugins.methods.lora:LoRA",
        "qlora": "sftcore_plugins.methods.qlora:QLoRA",
    }
