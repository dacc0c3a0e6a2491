"""The options and the command line of torchrun, for all backends that start it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from sftcore import Backend, SftError


@dataclass
class TorchLauncher(Backend):
    """Starts torchrun."""

    nproc_per_node: int | str = "auto"
    """Processes per machine: a number, or `auto` for one per GPU (one per CPU core without GPUs), `gpu`, `cpu`."""
    nnodes: int | str = 1
    """Machines: a number, or MIN:MAX for an elastic run."""
    node_rank: int | None = None
    """Number of this machine, from 0; not needed with a rendezvous."""
    master_addr: str | None = None
    """Address of machine 0."""
    master_port: int | None = None
    """Free port on machine 0."""
    rdzv_backend: str | None = None
    """Rendezvous: `c10d` for several machines; default: `static`."""
    rdzv_endpoint: str | None = None
    """HOST:PORT of the rendezvous."""
    rdzv_id: str | None = None
    """Id of the job, the same on all machines."""
    max_restarts: int = 0
    """How often all processes are restarted after one fails."""

    def command(self, argv: Sequence[str]) -> list[str]:
        values = ((field.name, getattr(self, field.name)) for field in fields(TorchLauncher))
        options = {name: value for name, value in values if value is not None}
        given = [f"--{name}={value}" for name, value in options.items()]
        if self.nnodes == 1 and options.keys() <= {"nproc_per_node", "nnodes", "max_restarts"}:
            given.append("--standalone")  # picks a free port, so that two runs on one machine do not collide
        # without a new TCP store, restarted ranks would connect to the addresses of the ranks before them
        fresh_store = ["env", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"] if self.max_restarts else []
        return [*fresh_store, sys.executable, "-m", "torch.distributed.run", *given, "-m", "sftcore", *argv]

    def start(self, environ: Mapping[str, str], cpu: bool) -> None:
        size = environ.get("WORLD_SIZE", "1")
        if not isinstance(self.nproc_per_node, int) or not isinstance(self.nnodes, int):
            return
        if (wanted := self.nproc_per_node * self.nnodes) != int(size):
            raise SftError(f"the launcher started {size} processes, but the backend's options ask for {wanted}")
