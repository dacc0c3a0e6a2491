"""DeepSpeed: ZeRO shards optimizer state, gradients and weights (Rajbhandari et al., 2019, arXiv:1910.02054)."""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import re
import socket
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sftcore import Backend, ConfigError, SftError

from .building import build

SHIPPED = "sftcore_config"
"""The package with the configuration files of sftcore."""


@dataclass
class DeepSpeed(Backend):
    """Starts DeepSpeed's launcher, and trains with ZeRO as its JSON configuration says."""

    requires: ClassVar[tuple[str, ...]] = ("deepspeed",)
    owns_training_step: ClassVar[bool] = True

    config: Path | None = None
    """DeepSpeed's JSON configuration; `auto` values follow training_args. Default: the ZeRO-2 file of sftcore."""
    num_gpus: int | None = None
    """Processes per machine; default: one per GPU."""
    num_nodes: int | None = None
    """Machines; default: all in the hostfile."""
    hostfile: str | None = None
    """File that lists the machines and their slots."""
    include: str | None = None
    """Machines and devices to use, as DeepSpeed writes them: `worker-0@worker-1:0,2`."""
    master_addr: str | None = None
    """Address of machine 0."""
    master_port: int | None = None
    """Free port on machine 0; default: a port that is free on this machine."""

    def __post_init__(self) -> None:
        if self.config is not None and not self.config.is_file():
            raise ConfigError(f"the DeepSpeed configuration {self.config} does not exist")
        if self.config is not None:
            content = _read(self.config)
            _check_keys(content, self.config)
            _check_zero(content, self.config)

    def command(self, argv: Sequence[str]) -> list[str]:
        options: dict[str, object] = {
            "num_gpus": self.num_gpus,
            "num_nodes": self.num_nodes,
            "hostfile": self.hostfile,
            "include": self.include,
            "master_addr": self.master_addr,
            "master_port": self.master_port or _free_port(),  # so that two runs on one machine do not collide
        }
        given = [f"--{name}={value}" for name, value in options.items() if value is not None]
        return [sys.executable, "-m", "deepspeed.launcher.runner", *given, "--module", "sftcore", *argv]

    def start(self, environ: Mapping[str, str], cpu: bool) -> None:
        size = environ.get("WORLD_SIZE", "1")
        if (
            self.num_gpus is not None
            and self.num_nodes in (None, 1)
            and self.hostfile is None
            and self.num_gpus != int(size)
        ):
            raise SftError(f"the launcher started {size} processes, but the backend's options ask for {self.num_gpus}")
        _allow_states()
        if not cpu:
            return
        # DeepSpeed builds its CPU collectives with ninja, which pip puts beside this interpreter
        os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), environ.get("PATH", "")])
        import deepspeed
        from deepspeed.accelerator import get_accelerator

        build(get_accelerator().create_op_builder("ShareMemCommBuilder"))
        # before the training arguments, which compute the batch size from the number of ranks
        deepspeed.init_distributed("gloo")

    def training_args(self) -> dict[str, Any]:
        return {"deepspeed": str(self._file())}

    def layout(self, ranks: int) -> str:
        content = _read(self._file())
        own = {key: content[key] for key in ("optimizer", "scheduler") if key in content}  # their state has the values
        return (
            f"ZeRO-{content.get('zero_optimization', {}).get('stage', 0)} over {ranks}{f' with {own}' if own else ''}"
        )

    def _file(self) -> Path:
        return self.config or _shipped("deepspeed/ds_config.json")


def _read(path: Path) -> dict[str, Any]:
    """Return the content of the JSON file *path*.

    Raises:
        ConfigError: it is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid JSON: {error.msg} (column {error.colno})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be a JSON object of DeepSpeed's options")
    return content


def _check_keys(content: Mapping[str, Any], path: Path) -> None:
    """Raise ConfigError if the code of DeepSpeed does not name a key of *content*: it would ignore the key."""
    spec = importlib.util.find_spec("deepspeed")
    assert spec is not None
    files = Path(spec.origin or "").parent.rglob("*.py")
    code = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    names = {*re.findall(r"[\"'](\w+)[\"']", code)}
    for key in content.keys() - names:
        close = difflib.get_close_matches(key, sorted(names), n=1, cutoff=0.8)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise ConfigError(f"{path}: DeepSpeed has no key '{key}'{hint}")


def _check_zero(content: Mapping[str, Any], path: Path) -> None:
    """Check the section ``zero_optimization`` as DeepSpeed does, without values that transformers fills in."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from pydantic import ValidationError

    section = content.get("zero_optimization", {})
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: zero_optimization: must be an object")
    try:
        DeepSpeedZeroConfig(**{key: value for key, value in section.items() if value != "auto"})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, ("zero_optimization", *first["loc"])))
        raise ConfigError(f"{path}: {place}: {first['msg']}, got {first['input']!r}") from None


def _allow_states() -> None:
    """Allow the few plain classes in DeepSpeed's state files, which are read with ``weights_only=True``."""
    import torch
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    torch.serialization.add_safe_globals([DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


def _shipped(name: str) -> Path:
    spec = importlib.util.find_spec(SHIPPED)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], name)
