"""The built-in distributed backends."""

from sftcore import BackendSpec, hookimpl

RANKED = {"RANK": True, "WORLD_SIZE": True}
"""The variables that all launchers of torch set."""


@hookimpl
def register_backends() -> dict[str, BackendSpec]:
    here = "sftcore_plugins.backends"
    return {
        "none": BackendSpec(f"{here}.none:OneProcess", environment=[{"RANK": False}, {"WORLD_SIZE": False}]),
        "torchrun": BackendSpec(
            f"{here}.torchrun:Torchrun",
            environment=[{**RANKED, "TORCHELASTIC_RUN_ID": True}, {**RANKED, "CROSS_SIZE": False}],
        ),
        "fsdp": BackendSpec(f"{here}.fsdp:Fsdp", training_args=["fsdp", "fsdp_config"]),
        "deepspeed": BackendSpec(
            f"{here}.deepspeed:DeepSpeed",
            environment=[{**RANKED, "CROSS_SIZE": True, "TORCHELASTIC_RUN_ID": False}],
            training_args=["deepspeed"],
            file_option="config",
        ),
        "ray": BackendSpec(f"{here}.ray:Ray"),
    }
