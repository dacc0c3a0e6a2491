"""``python -m sftcore_plugins.backends.ray_launcher OPTIONS ARGUMENTS...`` runs ``sft ARGUMENTS...`` with Ray Train."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import chdir, suppress
from typing import Any

from sftcore import SftError
from sftcore.launching import STOPPED_EXIT_CODE, Stopped, guard_output, handle_stop_signals, stop_signals_blocked

from .ray import Ray

FORWARDED = (
    *("SFTCORE_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "WANDB_", "SWANLAB_", "ACCELERATE_", "DS_"),
    *("TORCH_", "PYTORCH_", "CUBLAS_", "NCCL_", "GLOO_", "OMP_"),
)
"""Prefixes of the environment variables that every rank gets from this process."""

CONNECT_SECONDS = 20.0

IDLE_SECONDS = 20.0
"""Time without any rank after which a message says that the run waits."""

STOP_SECONDS = 5.0
"""Time without any rank after which a run that was asked to stop is abandoned."""

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would send the whole folder to the cluster
}

_ARGUMENTS = "SFTCORE_RAY"
"""Environment variable with the arguments of this program, which then replaces itself by one without arguments: Ray
writes the command line of a program to its table of jobs, which its dashboard shows."""


def main(options: Ray, argv: Sequence[str]) -> int:
    """Run ``sft`` with *argv* on a cluster, and return the exit code of the run.

    Raises:
        SftError: the cluster cannot be reached, or has not enough resources for the run.
        Stopped: the run was asked to stop before it started.
    """
    os.environ |= SETTINGS
    import ray

    with tempfile.TemporaryDirectory() as empty:  # Ray lets its workers import from the driver's working directory
        with chdir(empty), stop_signals_blocked():  # which would end the cluster, too
            _connect(options.where)
        with handle_stop_signals(os.environ) as stop:  # after Ray has set handlers of its own
            stop.interruptible = False
            return _run(options, _scaling(options, ray.cluster_resources()), argv, stop)


def _connect(address: str) -> None:
    """Connect to the cluster at *address*, or start a local one.

    Raises:
        SftError: it cannot be reached.
    """
    import ray

    dashboard = {"include_dashboard": False} if address == "local" else {}
    try:
        _check_address(address)
        ray.init(address=address, log_to_driver=False, logging_level="error", **dashboard)
    except (OSError, ValueError, RuntimeError) as error:
        raise SftError(f"backend.address: cannot connect to a Ray cluster at {address}: {error}") from None


def _check_address(address: str) -> None:
    """Raise an OSError at once if HOST:PORT *address* does not answer; Ray tries for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def _scaling(options: Ray, resources: Mapping[str, float]) -> dict[str, Any]:
    """Return the arguments of ``ray.train.ScalingConfig`` on a cluster with these *resources*."""
    gpus = int(resources.get("GPU", 0))
    use_gpu = options.use_gpu if options.use_gpu is not None else gpus > 0
    number = options.num_workers or (gpus if use_gpu else 0)
    if not number:
        raise SftError("backend.num_workers: set the number of processes; this Ray cluster has no GPU to count")
    per_worker = {"GPU" if use_gpu else "CPU": 1, **options.resources_per_worker}
    for name, amount in per_worker.items():
        if amount * number > (available := resources.get(name, 0)):
            problem = f"{number} workers with {amount:g} {name} each exceed the Ray cluster, which has {available:g}"
            if options.where == "local":
                raise SftError(f"backend.num_workers: {problem}")
            _print_status(f"{problem}; this run waits until it grows")
    return {
        "num_workers": number,
        "use_gpu": use_gpu,
        "resources_per_worker": per_worker,
        "placement_strategy": options.placement_strategy,
    }


def _run(options: Ray, scaling: Mapping[str, Any], argv: Sequence[str], stop: Any) -> int:
    """Run Ray Train, forward output and requests to stop, and return the exit code of the run."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from . import ray_worker

    this_machine = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, scheduling_strategy=this_machine)(ray_worker.Mailbox)
    mailbox = actor.remote([*argv], os.getcwd(), _environ(options, scaling["use_gpu"]))
    problem: list[Exception] = []
    fit = threading.Thread(target=_fit, args=(options, scaling, mailbox, problem), daemon=True)
    fit.start()
    began, reported, ended = time.monotonic(), False, False
    try:
        while not ended:
            ended = not fit.is_alive()
            since_poll, output, codes = ray.get(mailbox.exchange.remote(stop.reason))
            _write(output)
            idle = min(since_poll, time.monotonic() - began)
            succeeded = len(codes) == scaling["num_workers"] and {*codes.values()} <= {0, STOPPED_EXIT_CODE}
            if stop.reason and idle > STOP_SECONDS and not succeeded:
                return _stopped(stop.reason)
            if idle > IDLE_SECONDS and not (reported or succeeded):
                reported = True
                _print_status(
                    f"none of {scaling['num_workers']} workers is running: Ray waits for resources, or restarts them"
                )
            fit.join(ray_worker.POLL_SECONDS)
    except ray.exceptions.RayError as error:
        problem, codes = [error], {}
    return _exit_code(codes, problem)


def _environ(options: Ray, use_gpu: bool) -> dict[str, str]:
    """Return the environment variables that every rank gets in addition to its own."""
    names = {name for name in os.environ if name.startswith(FORWARDED)} | {*options.env_vars}
    no_gpu = {} if use_gpu else {"CUDA_VISIBLE_DEVICES": ""}  # Ray does not hide the GPUs
    return {**{name: os.environ[name] for name in names if name in os.environ}, **no_gpu}


def _fit(options: Ray, scaling: Mapping[str, Any], mailbox: Any, problem: list[Exception]) -> None:
    """Run all workers until they end; add an exception to *problem*."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer  # the base class of TorchTrainer

    from . import ray_worker

    try:
        with tempfile.TemporaryDirectory() as folder:
            failures = FailureConfig(max_failures=options.max_failures)
            DataParallelTrainer(
                ray_worker.run_rank,
                train_loop_config=mailbox,
                backend_config=ray_worker.Devices(),
                scaling_config=ScalingConfig(**scaling),
                run_config=RunConfig(name="sft", storage_path=folder, failure_config=failures),
            ).fit()
    except Exception as error:
        problem.append(error)


def _exit_code(codes: Mapping[int, int], problem: Sequence[Exception]) -> int:
    """Return the exit code of a run from the exit *codes* of its ranks; print why it failed."""
    if 2 in codes.values():
        return 2
    if codes and not problem:
        return max(codes.values())
    failed = [
        f"rank {rank} with exit code {code}"
        for rank, code in sorted(codes.items())
        if code not in (0, STOPPED_EXIT_CODE)
    ]
    _print_status(f"error: ended: {', '.join(failed)}" if failed else f"error: Ray has ended the run: {problem[0]}")
    return 1


def _stopped(reason: object) -> int:
    _print_status(f"stopped by {reason}; resume with the same command and --resume auto")
    return STOPPED_EXIT_CODE


def _write(output: Sequence[tuple[int, bytes]]) -> None:
    for stream, text in output:
        with suppress(OSError):  # a run outlives its log
            file = (sys.stdout if stream == 1 else sys.stderr).buffer
            file.write(text)
            file.flush()


def _print_status(text: str) -> None:
    print(f"sft: {text}", file=sys.stderr, flush=True)


def program() -> int:
    """Run this program with the arguments of the process, and return its exit code."""
    if sys.argv[1:]:
        os.environ[_ARGUMENTS] = json.dumps(sys.argv[1:])
        os.execv(sys.executable, [sys.executable, "-P", "-m", "sftcore_plugins.backends.ray_launcher"])
    options, *argv = json.loads(os.environ.pop(_ARGUMENTS))
    guard_output()
    try:
        return main(Ray(**json.loads(options)), argv)
    except Stopped as stopped:
        return _stopped(stopped)
    except SftError as error:
        _print_status(f"error: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(program())
