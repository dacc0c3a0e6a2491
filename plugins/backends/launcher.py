"""torchrun: starts one process per device."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sftcore import Backend, SftError


@dataclass
class TorchLauncher(Backend):
    """Starts torchrun."""

    nproc_per_node: int | str = "auto"
    """Processes on each machine: a number, or `auto` for one per GPU (without GPUs one per CPU core), `gpu`, `cpu`."""
    nnodes: int | str = 1
    """Machines: a number, or MIN:MAX for an elastic run."""
    node_rank: int | None = None
    """Which machine this is, counted from 0; not needed with a rendezvous."""
    master_addr: str | None = None
    """Address of machine 0."""
    master_port: int | None = None
    """Free port on machine 0."""
    rdzv_backend: str | None = None
    """Rendezvous: `c10d` for several machines; `static` by default."""
    rdzv_endpoint: str | None = None
    """HOST:PORT of the rendezvous."""
    rdzv_id: str | None = None
    """Id of the job, the same on all machines."""
    max_restarts: int = 0
    """How often to start all processes anew after one fails."""

    def command(self, argv: Sequence[str]) -> list[str]:
        options: dict[str, object] = {
            "nproc_per_node": self.nproc_per_node,
            "nnodes": self.nnodes,
            "node_rank": self.node_rank,
            "master_addr": self.master_addr,
            "master_port": self.master_port,
            "rdzv_backend": self.rdzv_backend,
            "rdzv_endpoint": self.rdzv_endpoint,
            "rdzv_id": self.rdzv_id,
            "max_restarts": self.max_restarts,
        }
        given = [f"--{name}={value}" for name, value in options.items() if value is not None]
        met = (self.node_rank, self.master_addr, self.master_port, self.rdzv_backend, self.rdzv_endpoint, self.rdzv_id)
        if self.nnodes == 1 and all(option is None for option in met):
            given.append("--standalone")  # a free port of its own, so that two runs on one machine do not meet
        # else ranks that are started anew look for each other where those before them were
        anew = ["env", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"] if self.max_restarts else []
        return [*anew, sys.executable, "-m", "torch.distributed.run", *given, "-m", "sftcore", *argv]

    def start(self, environ: Mapping[str, str], cpu: bool) -> None:
        size = environ.get("WORLD_SIZE", "1")
        if not isinstance(self.nproc_per_node, int) or not isinstance(self.nnodes, int):
            return
        if (wanted := self.nproc_per_node * self.nnodes) != int(size):
            raise SftError(f"the launcher started {size} processes, but the backend's options ask for {wanted}")
