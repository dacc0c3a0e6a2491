"""Every backend trains on two real processes, and to the same losses as one."""

from __future__ import annotations

import os
import sys
import time

import pytest
from sftcore_plugins.backends import building, register_backends
from sftcore_plugins.backends.deepspeed import DeepSpeed
from sftcore_plugins.backends.fsdp import Fsdp
from sftcore_plugins.backends.none import OneProcess
from sftcore_plugins.backends.torchrun import Torchrun

from sftcore import ConfigError, SftError

STEPS = 10
ZERO2, ZERO3 = (
    "package:sftcore_config/deepspeed/ds_config.json",
    "package:sftcore_config/deepspeed/ds_config_zero3.json",
)
SLOW = pytest.mark.slow

BY_TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "sftcore")
BY_DEEPSPEED = ("-m", "deepspeed.launcher.runner", "--num_gpus=2", "--module", "sftcore")


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    """Two processes need two GPUs, or none; tests/test_gpu.py has those that need two."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def start(sft, batch, **config):
    sft.config["training_args"] |= {"max_steps": STEPS, "per_device_train_batch_size": batch, "learning_rate": 1e-3}
    sft.config |= config
    return sft


@pytest.fixture(scope="module")
def alone(make_sft, tmp_path_factory):
    """The losses of one process."""
    sft = start(make_sft(tmp_path_factory.mktemp("alone")), 8)
    sft.train("training_args.use_cpu=true")
    return sft.losses()


@pytest.mark.parametrize(
    ("backend", "args", "launcher"),
    [
        pytest.param({"name": "torchrun", "nproc_per_node": 2}, (), ("-m", "sftcore"), marks=SLOW),
        ("auto", (), BY_TORCHRUN),
        pytest.param({"name": "fsdp", "nproc_per_node": 2}, (), ("-m", "sftcore"), marks=SLOW),
        ({"name": "deepspeed", "num_gpus": 2, "config": ZERO2}, (), ("-m", "sftcore")),
        pytest.param({"name": "deepspeed", "num_gpus": 2, "config": ZERO3}, (), ("-m", "sftcore"), marks=SLOW),
        pytest.param("auto", ("--deepspeed", ZERO3), BY_DEEPSPEED, marks=SLOW),
    ],
    ids=[
        "torchrun by sft",
        "torchrun itself",
        "fsdp by sft",
        "zero-2 by sft",
        "zero-3 by sft",
        "zero-3 by deepspeed itself",
    ],
)
def test_two_processes_reach_the_losses_of_one(sft, alone, backend, args, launcher):
    start(sft, 4, backend=backend).train_apart(*args, launcher=launcher, OMP_NUM_THREADS="1")
    assert sft.losses() == pytest.approx(alone, rel=1e-4)
    assert len(alone) == STEPS
    assert sft.record()["world_size"] == 2
    assert (sft.out / "model.safetensors").is_file()


def test_accumulation_reaches_the_losses_of_one_batch(sft, alone):
    start(sft, 2)
    sft.config["training_args"]["gradient_accumulation_steps"] = 4
    sft.train()
    assert sft.losses() == pytest.approx(alone, rel=1e-4)


@pytest.mark.slow
def test_packed_rows_are_checked_and_trained_under_zero_3_as_by_one_process(sft):
    """The isolation check calls a model whose weights are sharded over the ranks; all use the same rows."""
    sft.config["data"] |= {"packing": True, "max_length": 100}
    whole_batches = "training_args.max_steps=5"  # not to the end of the epoch, where some rows are repeated
    start(sft, 4, backend="none").train(whole_batches)
    by_one = sft.losses()
    start(sft, 2, backend={"name": "deepspeed", "num_gpus": 2, "config": ZERO3})
    said = sft.train_apart(whole_batches, OMP_NUM_THREADS="1")
    assert "examples packed into" in said
    assert sft.losses() == pytest.approx(by_one, rel=1e-4)
    assert sft.record()["world_size"] == 2


@pytest.mark.slow
def test_ranks_that_would_train_separately_are_an_error(sft):
    sft.config["training_args"]["use_cpu"] = False
    done = sft.run(launcher=BY_TORCHRUN)
    assert done.code != 0
    assert "started 2 processes, but 1 would train together" in done.said


@pytest.mark.slow
def test_backend_none_under_a_launcher_is_an_error(sft):
    sft.config["backend"] = "none"
    done = sft.run(launcher=BY_TORCHRUN)
    assert done.code != 0
    assert "a launcher started 2 processes, but the backend is 'none'" in done.said


def test_malformed_rows_are_reported_before_any_process_starts(sft, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"messages": 3}\n')
    sft.config |= {"backend": {"name": "torchrun", "nproc_per_node": 2}, "data": {"train": "bad.jsonl"}}
    done = sft.run_here()
    assert done.code == 2
    assert "bad.jsonl:1: 'messages' must be a list, not a number" in done.said
    assert "launch" not in done.said


@pytest.mark.parametrize(
    ("environ", "claims"),
    [
        ({}, ["none"]),
        ({"RANK": "0"}, ["none"]),
        ({"RANK": "0", "WORLD_SIZE": "2", "CROSS_SIZE": "1", "TORCHELASTIC_RUN_ID": "x"}, ["torchrun"]),
        ({"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}, ["torchrun"]),
        ({"RANK": "0", "WORLD_SIZE": "2", "CROSS_SIZE": "1"}, ["deepspeed"]),
        ({"RANK": "0", "WORLD_SIZE": "2"}, ["torchrun"]),
    ],
)
def test_each_launcher_is_recognised_by_one_backend(environ, claims):
    assert [name for name, spec in register_backends().items() if spec.has_launched(environ)] == claims


def test_commands():
    assert OneProcess().command(["run"]) is None
    torchrun = Torchrun(nproc_per_node=4, nnodes=2, rdzv_backend="c10d", rdzv_endpoint="host:29400").command(
        ["run", "a=1"]
    )
    assert torchrun[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert {"--nproc_per_node=4", "--nnodes=2", "--rdzv_backend=c10d", "--rdzv_endpoint=host:29400"} <= set(torchrun)
    assert torchrun[-4:] == ["-m", "sftcore", "run", "a=1"]
    assert (
        Fsdp(nproc_per_node=4, nnodes=2, rdzv_backend="c10d", rdzv_endpoint="host:29400").command(["run", "a=1"])
        == torchrun
    )
    deepspeed = DeepSpeed(num_gpus=4, hostfile="hosts").command(["run", "a=1"])
    assert {"--num_gpus=4", "--hostfile=hosts"} <= set(deepspeed)
    assert deepspeed[-4:] == ["--module", "sftcore", "run", "a=1"]


def test_one_process_needs_a_world_of_one():
    OneProcess().start({"WORLD_SIZE": "1"}, cpu=True)
    with pytest.raises(SftError, match="started 4 processes"):
        OneProcess().start({"WORLD_SIZE": "4"}, cpu=True)


@pytest.mark.parametrize("backend", [Torchrun(nproc_per_node=4), Fsdp(nproc_per_node=4), DeepSpeed(num_gpus=4)])
def test_a_launcher_that_starts_another_number_of_processes_is_an_error(backend):
    with pytest.raises(SftError, match="started 2 processes, but the backend's options ask for 4"):
        backend.start({"WORLD_SIZE": "2"}, cpu=False)


def test_fsdp_in_one_process_is_an_error():
    with pytest.raises(SftError, match="only one was started"):
        Fsdp().start({"WORLD_SIZE": "1"}, cpu=True)


def test_fsdp_that_accelerate_would_replace_is_an_error(monkeypatch):
    """As it ships, accelerate takes plain data parallelism on CPUs, and says nothing."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    def becomes(kind):
        def begin(self, *args, fsdp_plugin=None, **kwargs):
            self.__dict__ = {"distributed_type": kind, "_mixed_precision": "no"}

        monkeypatch.setattr(AcceleratorState, "__init__", begin)
        Fsdp().start({"WORLD_SIZE": "2"}, cpu=True)
        Fsdp().start({"WORLD_SIZE": "2"}, cpu=True)  # a second call fixes nothing more
        return AcceleratorState

    monkeypatch.setattr(PartialState, "_shared_state", {})
    assert becomes(DistributedType.MULTI_CPU)(fsdp_plugin="plugin").distributed_type == DistributedType.FSDP
    assert becomes(DistributedType.MULTI_CPU)().distributed_type == DistributedType.MULTI_CPU
    assert becomes(DistributedType.FSDP)(fsdp_plugin="plugin").distributed_type == DistributedType.FSDP
    with pytest.raises(SftError, match="MULTI_HPU instead of FSDP"):
        becomes(DistributedType.MULTI_HPU)(fsdp_plugin="plugin")


@pytest.mark.parametrize("key", ["fsdp", "fsdp_config"])
def test_training_arguments_of_fsdp_are_an_error_elsewhere(sft, key):
    sft.config["training_args"][key] = "full_shard"
    done = sft.run_here()
    assert done.code == 2
    assert f"training_args.{key}: is set by the backend 'fsdp': select it under 'backend'" in done.said


@pytest.mark.parametrize(("left", "age", "kept"), [("compiling", 0, False), ("", 0, True), ("", 1000, False)])
def test_a_killed_compilation_of_deepspeed_does_not_block_the_next(monkeypatch, tmp_path, left, age, kept):
    """torch waits for the file ``lock`` to go away, however long."""
    lock, seen = tmp_path / "op" / "lock", []
    lock.parent.mkdir()
    lock.touch()
    os.utime(lock, (time.time() - age,) * 2)
    (tmp_path / "sftcore.lock").write_text(left)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))

    class Builder:
        def load(self):
            seen.append((lock.exists(), (tmp_path / "sftcore.lock").read_text() == "compiling"))

    building.build(Builder())
    assert seen == [(kept, True)]
    assert (tmp_path / "sftcore.lock").read_text() == ""


def test_torchrun_is_standalone_only_without_rendezvous_options():
    assert "--standalone" in Torchrun().command([])
    assert "--standalone" not in Torchrun(rdzv_backend="c10d").command([])
    assert "--standalone" not in Torchrun(master_addr="host").command([])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{\n  "zero_optimization": {"stage": 2,}\n}', ":2: not valid JSON: "),
        ("[]", ": must be a JSON object of DeepSpeed's options"),
        ('{"zero_optimization": {"stage": 7}}', ": zero_optimization.stage: Input should be "),
        ('{"zero_optimization": 2}', ": zero_optimization: must be an object"),
        ('{"zero_optimisation": {}}', ": DeepSpeed has no key 'zero_optimisation'; did you mean 'zero_optimization'?"),
        ('{"bf16": {}, "gradient_cliping": 1}', ": DeepSpeed has no key 'gradient_cliping'; did you mean"),
    ],
)
def test_a_fault_of_deepspeeds_file_names_that_file(tmp_path, content, said):
    path = tmp_path / "ds.json"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        DeepSpeed(config=path)
    assert str(caught.value).startswith(f"{path}{said}")


def test_the_values_of_a_state_are_in_its_layout(tmp_path):
    path = tmp_path / "ds.json"
    path.write_text('{"zero_optimization": {"stage": 1, "reduce_bucket_size": "auto"}}')
    assert DeepSpeed(config=path).layout(2) == "ZeRO-1 over 2"
    path.write_text('{"zero_optimization": {"stage": 1}, "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}')
    assert DeepSpeed(config=path).layout(2).startswith("ZeRO-1 over 2 with {'optimizer': {'type': 'AdamW'")
