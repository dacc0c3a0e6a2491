"""Ray Train: starts the processes of a run as workers on a Ray cluster."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from sftcore import Backend, ConfigError, SftError


@dataclass
class Ray(Backend):
    """Starts the processes on a Ray cluster with Ray Train; in each of them another backend trains."""

    requires: ClassVar[tuple[str, ...]] = ("ray", "pandas")

    strategy: str | dict[str, Any] = "torchrun"
    """The backend that trains: `torchrun` (data-parallel), `fsdp` or `deepspeed`, by name or with its options."""
    num_workers: int | None = None
    """Processes; default: one per GPU of the cluster."""
    use_gpu: bool | None = None
    """Whether each process has a GPU; default: if the cluster has any."""
    resources_per_worker: dict[str, float] = field(default_factory=dict)
    """Further resources that Ray reserves for each process: `CPU: 8`; default: only its GPU, or one CPU without."""
    placement_strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """How Ray places the processes on machines."""
    address: str | None = None
    """The cluster: HOST:PORT or `auto`; default: that of `RAY_ADDRESS`, or a new one on this machine."""
    max_failures: int = 0
    """How often all processes are restarted after one fails; they resume from the newest checkpoint. -1: no limit."""
    env_vars: list[str] = field(default_factory=list)
    """Names of environment variables to send to other machines, in addition to those of the libraries in use."""

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 1:
            raise ConfigError("num_workers must be 1 or more")
        if self.max_failures < -1:
            raise ConfigError("max_failures must be a number, or -1 for any number")
        if "://" in self.where or not self.where:
            inside = "one within the cluster, where sft has to run: HOST:PORT or auto"
            raise ConfigError(f"address must be {inside}, not {self.where!r}")
        if "GPU" in self.resources_per_worker:
            raise ConfigError("resources_per_worker must not name GPUs: with use_gpu each process has one")
        if self._strategy().get("name") in (None, "ray", "none"):
            raise ConfigError("strategy must name a backend that trains on several processes: torchrun, fsdp")

    @property
    def where(self) -> str:
        """The address of the cluster, `local` for a new one."""
        return os.environ.get("RAY_ADDRESS") or "local" if self.address is None else self.address

    def command(self, argv: Sequence[str]) -> list[str]:
        plain = {**asdict(Ray(address="local")), "address": None}  # whatever the environment says
        given = {name: value for name, value in asdict(self).items() if name != "strategy" and value != plain[name]}
        launcher = [sys.executable, "-m", "sftcore_plugins.backends.ray_launcher", json.dumps(given)]
        return [*launcher, *argv, f"backend={json.dumps(self._strategy())}"]

    def start(self, environ: Mapping[str, str], cpu: bool) -> None:
        raise SftError(
            "the backend 'ray' starts the processes itself; under another launcher set the backend that they train with"
        )

    def _strategy(self) -> dict[str, Any]:
        return {"name": self.strategy} if isinstance(self.strategy, str) else self.strategy
