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

from sftcore import SftError
from sftcore.launching import Stopped, handle_stop_signals

from .ray import Ray

TAKEN = (
    *("SFTCORE_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "WANDB_", "SWANLAB_", "ACCELERATE_", "DS_"),
    *("TORCH_", "PYTORCH_", "CUBLAS_", "NCCL_", "GLOO_", "OMP_"),
)
"""How the names of environment variables begin that every rank gets from this process."""

REACHED = 20.0
"""Seconds for a cluster to answer."""

IDLE, GIVEN_UP = 20.0, 5.0
"""Seconds without any rank after which it is said that the run waits for room; after which one that was asked to stop
is left."""

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would send the whole folder to the cluster
}

_ARGUMENTS = "SFTCORE_RAY"
"""The environment variable with the arguments of this program, once it has started itself anew without any: Ray writes
the command line of a program into its table of jobs, which its dashboard shows."""


def main(options: Ray, argv: Sequence[str]) -> int:
    """Run ``sft`` with *argv* on a cluster, and return the exit code of the run.

    Raises:
        SftError: there is no such cluster, or it has no room for the run.
        Stopped: the run was asked to stop before it began.
    """
    os.environ |= SETTINGS
    import ray

    with handle_stop_signals(os.environ):
        try:
            _reach(options.where)
            dashboard = {"include_dashboard": False} if options.where == "local" else {}
            ray.init(address=options.where, log_to_driver=False, logging_level="error", **dashboard)
        except (OSError, ValueError, RuntimeError) as error:
            raise SftError(f"backend.address: there is no Ray cluster to use at {options.where}: {error}") from None
    with handle_stop_signals(os.environ) as stop:  # anew, since Ray has set handlers of its own
        stop.interruptible = False
        return _run(options, _scaling(options, ray.cluster_resources()), argv, stop)


def _reach(address: str) -> None:
    """Raise an OSError at once if nobody is at the HOST:PORT *address*; Ray tries for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=REACHED).close()


def _scaling(options: Ray, there: Mapping[str, float]) -> dict[str, Any]:
    """Return the arguments of ``ray.train.ScalingConfig`` on a cluster that has what is *there*."""
    gpus = int(there.get("GPU", 0))
    use_gpu = options.use_gpu if options.use_gpu is not None else gpus > 0
    number = options.num_workers or (gpus if use_gpu else 0)
    if not number:
        raise SftError("backend.num_workers: say how many processes: this Ray cluster has no GPU to count")
    each = {"GPU" if use_gpu else "CPU": 1, **options.resources_per_worker}
    for name, amount in each.items():
        if amount * number > (have := there.get(name, 0)):
            short = f"{number} workers with {amount:g} {name} each are more than the Ray cluster has: {have:g} {name}"
            if options.where == "local":
                raise SftError(f"backend.num_workers: {short}")
            _say(f"{short}; this run waits until it grows")
    strategy = options.placement_strategy
    return {"num_workers": number, "use_gpu": use_gpu, "resources_per_worker": each, "placement_strategy": strategy}


def _run(options: Ray, scaling: Mapping[str, Any], argv: Sequence[str], stop: Any) -> int:
    """Have Ray Train work, and see to it until it has ended."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from . import ray_worker

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    place = ray.remote(num_cpus=0, scheduling_strategy=here)(ray_worker.Desk)
    desk = place.remote([*argv], os.getcwd(), _environ(options, scaling["use_gpu"]))
    problem: list[Exception] = []
    fitting = threading.Thread(target=_fit, args=(options, scaling, desk, problem), daemon=True)
    fitting.start()
    began, told, ended = time.monotonic(), False, False
    try:
        while not ended:
            ended = not fitting.is_alive()
            since, printed, codes = ray.get(desk.look.remote(stop.reason))
            _print(printed)
            idle = min(since, time.monotonic() - began)
            done = len(codes) == scaling["num_workers"] and {*codes.values()} <= {0, 75}
            if stop.reason and idle > GIVEN_UP and not done:
                return _stopped(stop.reason)
            if idle > IDLE and not (told or done):
                told = True
                _say(f"no worker is there: Ray waits for room for {scaling['num_workers']}, or starts them anew")
            fitting.join(ray_worker.LOOK)
    except ray.exceptions.RayError as error:
        problem, codes = [error], {}
    return _code(codes, problem)


def _environ(options: Ray, use_gpu: bool) -> dict[str, str]:
    """Return what every rank has in its environment."""
    taken = {name for name in os.environ if name.startswith(TAKEN)} | {*options.env_vars}
    hidden = {} if use_gpu else {"CUDA_VISIBLE_DEVICES": ""}  # which Ray does not hide
    return {**{name: os.environ[name] for name in taken if name in os.environ}, **hidden}


def _fit(options: Ray, scaling: Mapping[str, Any], desk: Any, problem: list[Exception]) -> None:
    """Run all workers to their end; leave what went wrong in *problem*."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer  # that of all others, such as for torch

    from . import ray_worker

    try:
        with tempfile.TemporaryDirectory() as folder:
            failures = FailureConfig(max_failures=options.max_failures)
            DataParallelTrainer(
                ray_worker.work,
                train_loop_config=desk,
                backend_config=ray_worker.Devices(),
                scaling_config=ScalingConfig(**scaling),
                run_config=RunConfig(name="sft", storage_path=folder, failure_config=failures),
            ).fit()
    except Exception as error:
        problem.append(error)


def _code(codes: Mapping[int, int], problem: Sequence[Exception]) -> int:
    """Return the exit code of a run whose ranks ended with *codes*, and say why it failed if they did not."""
    if 2 in codes.values():
        return 2
    if codes and not problem:
        return max(codes.values())
    failed = [f"rank {rank} with {code}" for rank, code in sorted(codes.items()) if code not in (0, 75)]
    _say(f"error: ended: {', '.join(failed)}" if failed else f"error: Ray has ended the run: {problem[0]}")
    return 1


def _stopped(why: object) -> int:
    _say(f"stopped by {why}; the same command with --resume auto goes on")
    return 75


def _print(printed: Sequence[tuple[int, bytes]]) -> None:
    for stream, text in printed:
        file = (sys.stdout if stream == 1 else sys.stderr).buffer
        file.write(text)
        file.flush()


def _say(text: str) -> None:
    print(f"sft: {text}", file=sys.stderr, flush=True)


def program() -> int:
    """Be that program, and return its exit code."""
    if sys.argv[1:]:
        os.environ[_ARGUMENTS] = json.dumps(sys.argv[1:])
        os.execv(sys.executable, [sys.executable, "-m", "sftcore_plugins.backends.ray_launcher"])
    options, *argv = json.loads(os.environ.pop(_ARGUMENTS))
    try:
        return main(Ray(**json.loads(options)), argv)
    except Stopped as why:
        return _stopped(why)
    except SftError as error:
        _say(f"error: {error}")
        return 2
    except BrokenPipeError:  # nobody reads it any more, as of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(program())
