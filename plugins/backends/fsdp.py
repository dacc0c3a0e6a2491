"""PyTorch's FSDP2: weights, gradients and optimizer state are sharded over the ranks.

Zhao et al., 2023, arXiv:2304.11277.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sftcore import SftError

from .launcher import TorchLauncher


@dataclass
class Fsdp(TorchLauncher):
    """Starts torchrun; PyTorch's FSDP2 shards weights, gradients and optimizer state over the processes."""

    shards_weights: ClassVar[bool] = True

    reshard_after_forward: bool = True
    """Free the weights of a layer between its forward and backward pass: less memory, more communication."""
    state_dict_type: Literal["full", "sharded"] = "full"
    """Checkpoints: one `full` state, for any number of processes, or one shard per process (`sharded`), for as many."""

    def start(self, environ: Mapping[str, str], cpu: bool) -> None:
        super().start(environ, cpu)
        if int(environ.get("WORLD_SIZE", "1")) < 2:
            raise SftError("FSDP shards a model over several processes, but only one was started; set backend: none")
        _patch_accelerate()

    def training_args(self) -> dict[str, Any]:
        config = {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",  # by the list of layers in the model class
            "reshard_after_forward": self.reshard_after_forward,
            "state_dict_type": "FULL_STATE_DICT",  # of saved models
        }
        return {"fsdp": True, "fsdp_config": config}

    def layout(self, ranks: int) -> str:
        return f"sharded over {ranks}" if self.writes_shards() else "by the names of weights"

    def writes_shards(self) -> bool:
        return self.state_dict_type == "sharded"

    def state(self, trainer: Any) -> Any:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(
            full_state_dict=not self.writes_shards(), cpu_offload=True, ignore_frozen_params=True
        )
        weights, optimizer = get_state_dict(trainer.model, trainer.optimizer, options=options)
        state = {"weights": weights, "optimizer": optimizer}
        return _to_local(state) if self.writes_shards() else state

    def restore(self, trainer: Any, read: Callable[[], Any]) -> None:
        import torch
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            get_state_dict,
            set_model_state_dict,
            set_optimizer_state_dict,
        )

        full = not self.writes_shards()
        options = StateDictOptions(
            full_state_dict=full, broadcast_from_rank0=full, ignore_frozen_params=True, strict=False
        )
        if full:
            state = read() if torch.distributed.get_rank() == 0 else {"weights": {}, "optimizer": {}}
        else:
            weights, optimizer = get_state_dict(trainer.model, trainer.optimizer, options=options)
            state = _to_dtensors(read(), {"weights": weights, "optimizer": optimizer})
        set_model_state_dict(trainer.model, state["weights"], options=options)
        set_optimizer_state_dict(trainer.model, trainer.optimizer, state["optimizer"], options=options)
        for group in trainer.optimizer.param_groups:  # the broadcast makes lists of tuples
            for key, default in trainer.optimizer.defaults.items():
                if isinstance(default, tuple):
                    group[key] = tuple(group[key])


def _to_local(value: Any) -> Any:
    """Return nested *value* with this rank's local shard in place of each DTensor."""
    from torch.distributed.tensor import DTensor

    if isinstance(value, dict):
        return {key: _to_local(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_local(item) for item in value)
    return value.to_local() if isinstance(value, DTensor) else value


def _to_dtensors(value: Any, like: Any) -> Any:
    """Invert :func:`_to_local`: return *value* with DTensors placed as those of *like*."""
    from torch.distributed.tensor import DTensor

    if isinstance(value, dict):
        return {key: _to_dtensors(item, like[key]) for key, item in value.items()}
    if not isinstance(like, DTensor):
        return value
    local = value.to(like.device)
    return DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def _patch_accelerate() -> None:
    """Make accelerate use FSDP on CPUs too, where it would silently train data-parallel without sharding."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    original = AcceleratorState.__init__
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def patched(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is None:
            return
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
        if self.distributed_type != DistributedType.FSDP:
            raise SftError(f"accelerate would train with {self.distributed_type.value} instead of FSDP")

    AcceleratorState.__init__ = patched
