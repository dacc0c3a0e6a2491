"""What only a GPU shows; skipped, with the reason, where there is none."""

from __future__ import annotations

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and this machine has none"),
]


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("packing", [False, True])
def test_trains_on_the_gpu_in_bfloat16(sft, method, packing):
    sft.config["method"] = method
    sft.config["data"]["packing"] = packing
    sft.config["training_args"] |= {"bf16": True, "max_steps": 20, "learning_rate": 1e-2}
    sft.train_apart()
    assert sft.losses()[-1] < 0.9 * sft.losses()[0]


def test_gpu_and_cpu_reach_the_same_losses(sft):
    sft.config["training_args"] |= {"max_steps": 10, "tf32": False}
    sft.train_apart()
    on_gpu = sft.losses()
    sft.train_apart("training_args.use_cpu=true", f"training_args.output_dir={sft.out}-cpu")
    sft.config["training_args"]["output_dir"] += "-cpu"
    assert sft.losses() == pytest.approx(on_gpu, rel=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
@pytest.mark.parametrize(
    "backend",
    [
        {"name": "torchrun", "nproc_per_node": 2},
        {"name": "deepspeed", "num_gpus": 2},
        {"name": "deepspeed", "num_gpus": 2, "config": "package:sftcore_config/deepspeed/ds_config_zero3.json"},
    ],
    ids=["torchrun", "zero-2", "zero-3"],
)
def test_two_gpus_reach_the_losses_of_one(sft, backend):
    sft.config["training_args"] |= {"max_steps": 10, "per_device_train_batch_size": 8, "tf32": False}
    sft.train_apart()
    alone = sft.losses()
    sft.config["backend"] = backend
    sft.train_apart("training_args.per_device_train_batch_size=4")
    assert sft.losses() == pytest.approx(alone, rel=1e-3)
