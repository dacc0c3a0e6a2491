"""The built-in experiment trackers."""

from sftcore import hookimpl


@hookimpl
def register_trackers() -> dict[str, str]:
    return {
        "none": "sftcore_plugins.trackers.none:NoTracker",
        "wandb": "sftcore_plugins.trackers.wandb:WandB",
        "swanlab": "sftcore_plugins.trackers.swanlab:SwanLab",
        "tensorboard": "sftcore_plugins.trackers.tensorboard:TensorBoard",
    }
