"""``python -m sftcore_plugins.backends.ray_launcher OPTIONS ARGUMENTS...`` runs ``sft ARGUMENTS...`` by Ray Train."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sftcore import SftError, listening

from .ray import Ray

TAKEN = ("SFTCORE_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "WANDB_", "SWANLAB_", "TORCH_", "NCCL_", "GLOO_", "OMP_")
"""How the names of environment variables begin that every rank gets from this process."""

HERE = "local"
"""What stands for a cluster on this machine alone, for this run."""

REACHED = 20.0
"""Seconds for a cluster to answer."""

GIVEN_UP = 5.0
"""Seconds after which a run that is asked to stop is left that has started no rank: it waits for room on a cluster."""


def main(options: Ray, argv: Sequence[str]) -> int:
    """Run ``sft`` with *argv* on a cluster, and return the exit code of the run.

    Raises:
        SftError: there is no such cluster, or it has no room for the run.
    """
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_METRICS_ENABLED": "0"}
    import ray

    address = options.address or os.environ.get("RAY_ADDRESS") or HERE
    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, ValueError) as error:
        raise SftError(f"backend.address: there is no Ray cluster at {address}: {error}") from None
    with listening(os.environ) as stop:  # from here on, since Ray has handlers of its own
        stop.at_once = False
        return _run(options, _scaling(options, ray.cluster_resources(), address), argv, stop)


def _reach(address: str) -> None:
    """Raise an OSError at once if nobody is at the HOST:PORT *address*; Ray tries for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=REACHED).close()


def _scaling(options: Ray, there: Mapping[str, float], address: str) -> dict[str, Any]:
    """Return the arguments of ``ray.train.ScalingConfig`` on the cluster at *address*, which has what is *there*."""
    gpus = int(there.get("GPU", 0))
    use_gpu = options.use_gpu if options.use_gpu is not None else gpus > 0
    number = options.num_workers or (gpus if use_gpu else 0)
    if not number:
        raise SftError("backend.num_workers: say how many processes: this Ray cluster has no GPU to count")
    each = {"GPU" if use_gpu else "CPU": 1, **options.resources_per_worker}
    for name, amount in each.items():
        if amount * number > (have := there.get(name, 0)):
            short = f"{number} workers with {amount:g} {name} each are more than the Ray cluster has: {have:g} {name}"
            if address == HERE:
                raise SftError(f"backend.num_workers: {short}")
            print(f"sft: {short}; this run waits until it grows", file=sys.stderr, flush=True)
    strategy = options.placement_strategy
    return {"num_workers": number, "use_gpu": use_gpu, "resources_per_worker": each, "placement_strategy": strategy}


def _run(options: Ray, scaling: Mapping[str, Any], argv: Sequence[str], stop: Any) -> int:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer  # that of all others, such as for torch

    from . import ray_worker

    taken = {name for name in os.environ if name.startswith(TAKEN)} | {*options.env_vars} - {"SFTCORE_LAUNCHER"}
    environ = {name: os.environ[name] for name in taken if name in os.environ}
    desk = ray.remote(num_cpus=0)(ray_worker.Desk).remote([*argv], os.getcwd(), environ)
    problem: list[Exception] = []

    def fit() -> None:
        with tempfile.TemporaryDirectory() as folder:
            failures = FailureConfig(max_failures=options.max_failures)
            trainer = DataParallelTrainer(
                ray_worker.work,
                train_loop_config=desk,
                backend_config=ray_worker.Devices(),
                scaling_config=ScalingConfig(**scaling),
                run_config=RunConfig(name="sft", storage_path=folder, failure_config=failures),
            )
            try:
                trainer.fit()
            except TrainingFailedError as error:
                problem.append(error)

    fitting = threading.Thread(target=fit, daemon=True)
    fitting.start()
    asked = 0.0
    while True:
        ended = not fitting.is_alive()
        started, printed, codes = ray.get(desk.look.remote(stop.asked))
        for stream, text in printed:
            os.write(stream, text)
        asked = asked or (time.monotonic() if stop.asked else 0.0)
        if asked and not started and time.monotonic() - asked > GIVEN_UP:
            return 75
        if ended:
            break
        fitting.join(ray_worker.LOOK)
    if not problem:
        return int(max(codes.values()))
    if 2 in codes.values():
        return 2
    failed = [f"rank {rank} with {code}" for rank, code in sorted(codes.items()) if code not in (0, 75)]
    why = f"ended: {', '.join(failed)}" if failed else f"Ray Train has ended the run: {problem[0]}"
    print(f"sft: error: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        _, given, *argv = sys.argv
        del sys.argv[1:]  # which Ray would write down, and show to all who see its dashboard
        code = main(Ray(**json.loads(given)), argv)
    except SftError as error:
        print(f"sft: error: {error}", file=sys.stderr)
        code = 2
    sys.stdout.flush()
    sys.exit(code)
