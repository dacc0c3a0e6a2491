"""Built-in distributed backends."""

from sftcore import hookimpl


@hookimpl
def register_backends() -> dict[str, str]:
    return {
        "none": "sftcore_plugins.backends.none:OneProcess",
        "torchrun": "sftcore_plugins.backends.torchrun:Torchrun",
        "fsdp": "sftcore_plugins.backends.fsdp:Fsdp",
        "deepspeed": "sftcore_plugins.backends.deepspeed:DeepSpeed",
        "ray": "sftcore_plugins.backends.ray:Ray",
    }
