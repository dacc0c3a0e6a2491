"""Tests that need a GPU; skipped, with the reason, on machines without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and this machine has none"),
]


@pytest.fixture(autouse=True)
def wide(sft: Any, tiny: Path, tmp_path: Path) -> None:
    """Let runs start from a random Llama with heads of 64 dimensions, which every kernel takes."""
    config = AutoConfig.from_pretrained(tiny)
    config.update({"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "wide")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "wide")
    sft.config["model"]["name_or_path"] = str(tmp_path / "wide")


def on_the_cpu(sft: Any) -> list[float]:
    """The losses of the same run on the CPU, in float32."""
    there = f"training_args.output_dir={sft.out}-cpu"
    sft.train_apart("training_args.use_cpu=true", "training_args.bf16=false", there)
    lines = Path(f"{sft.out}-cpu", "metrics.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("packing", [False, True], ids=["alone", "packed"])
def test_gpu_training_in_bfloat16_matches_the_cpu_in_float32(sft, method, packing):
    sft.config["method"] = method
    sft.config["data"] |= {"packing": packing, "max_length": 300}
    sft.config["training_args"] |= {"bf16": True, "max_steps": 20, "learning_rate": 3e-3}
    sft.train_apart()
    losses, exact = sft.losses(), on_the_cpu(sft)
    print(method, packing, losses, exact)
    assert losses == pytest.approx(exact, rel=5e-3)
    assert losses[0] - losses[-1] == pytest.approx(exact[0] - exact[-1], rel=0.1)
    assert exact[0] - exact[-1] > 0.2


def test_gpu_and_cpu_reach_the_same_losses(sft):
    sft.config["training_args"] |= {"max_steps": 10, "tf32": False}
    sft.train_apart()
    losses, exact = sft.losses(), on_the_cpu(sft)
    print(losses, exact)
    assert losses == pytest.approx(exact, rel=1e-5)


def test_more_processes_than_gpus_are_an_error(sft):
    number = torch.cuda.device_count()
    sft.config["backend"] = {"name": "torchrun", "nproc_per_node": number + 1}
    said = sft.run(OMP_NUM_THREADS="1").said
    assert f"the launcher started {number + 1} processes on this machine, which has {number} GPU" in said


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


def needs_flash(attention: str) -> None:
    """Skip where transformers has not the kernel that *attention* may name."""
    from transformers.utils import import_utils

    if attention.startswith("flash_attention_"):
        version = attention[-1]
        if not getattr(import_utils, f"is_flash_attn_{version}_available")():
            pytest.skip(f"needs the package of flash attention {version}")


class Compared(NamedTuple):
    """The logits of each document, float32, and by how much its loss packed differs from its loss alone."""

    together: list[torch.Tensor]
    alone: list[torch.Tensor]
    exact: list[torch.Tensor]
    """Alone, by the kernel `eager` and the same weights in float32."""
    losses: list[float]


def packed_and_alone(attention: str, dtype: torch.dtype) -> Compared:
    """Compare the documents of a small set; the check that a run makes has passed before."""
    import random
    from types import SimpleNamespace

    from transformers import LlamaConfig, LlamaForCausalLM

    from sftcore.data import Collator, PackedSet
    from sftcore.data.row_types import Example, Origin
    from sftcore.training.build import needs_flat_rows
    from sftcore.training.loss import TokenMeanLoss
    from sftcore.training.packing_check import PackingCheck

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=200,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.05,
        use_cache=False,
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation=attention, dtype=dtype).cuda().train()
    reference = LlamaForCausalLM._from_config(config, attn_implementation="eager", dtype=torch.float32).cuda().eval()
    reference.load_state_dict(model.state_dict())
    chance = random.Random(3)
    documents = []
    for number, length in enumerate((40, 1, 23, 64, 9, 50, 17, 30, 5, 61)):
        ids = chance.choices(range(3, 190), k=length)
        documents.append(Example(ids, ids, (length,), (Origin("f", number),)))
    packed = PackedSet(documents, 128)
    collator = Collator(0, packed=True, flat=needs_flat_rows(model))
    args = SimpleNamespace(bf16=False, fp16=False)
    PackingCheck(packed, collator).on_train_begin(args, None, None, model=model)
    model.eval()
    batch = {name: values.cuda() for name, values in collator([*packed]).items()}
    labels = batch.pop("labels").flatten()
    starts = (batch["position_ids"].flatten() == 0).nonzero().flatten().tolist()
    compared = Compared([], [], [], [])
    with torch.no_grad():
        logits = model(**batch).logits.flatten(0, 1)
        for number in (number for row in packed.bins.fixed() for number in row):
            ids = torch.tensor([documents[number].input_ids]).cuda()
            length = ids.shape[1]
            at = next(at for at in starts if batch["input_ids"].flatten()[at : at + length].equal(ids[0]))
            mask = torch.ones_like(ids)
            compared.together.append(logits[at : at + length].float())
            compared.alone.append(model(input_ids=ids, attention_mask=mask).logits[0].float())
            compared.exact.append(reference(input_ids=ids, attention_mask=mask).logits[0])
            each = [
                TokenMeanLoss()({"logits": part[-1][None]}, labels[None, at : at + length])
                for part in (compared.together, compared.alone)
            ]
            compared.losses.append(float((each[0] - each[1]).abs()))
    return compared


def furthest(ones: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """The largest difference of a logit."""
    return max(float((one - other).abs().max()) for one, other in zip(ones, others, strict=True))


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
def test_packing_on_a_gpu_keeps_the_logits_of_documents(attention):
    compared = packed_and_alone(attention, torch.float32)
    error = furthest(compared.together, compared.alone)
    print(attention, error, max(compared.losses), furthest(compared.together, compared.exact))
    assert error <= 1e-5
    assert max(compared.losses) <= 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "flex_attention", "flash_attention_2", "flash_attention_4"])
def test_packing_on_a_gpu_keeps_the_logits_of_documents_in_bfloat16(attention):
    """Flash attention has no float32, so the rounding of bfloat16 is the bound: packed, it is not larger than alone."""
    needs_flash(attention)
    compared = packed_and_alone(attention, torch.bfloat16)
    rounding = furthest(compared.alone, compared.exact)
    error, exact = furthest(compared.together, compared.alone), furthest(compared.together, compared.exact)
    size = max(float(each.abs().max()) for each in compared.exact)
    print(attention, "packed-alone", error, "packed-fp32", exact, "alone-fp32", rounding, "of", size, compared.losses)
    assert 0 < rounding <= 0.02 * size
    assert error <= 0.02 * size
    assert exact <= 1.5 * rounding
    assert max(compared.losses) <= 0.01


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flash_attention_2"])
def test_a_packed_run_on_a_gpu_has_the_loss_of_an_unpacked_one(sft, attention):
    """All rows in one step, so that both have the same tokens."""
    needs_flash(attention)
    sft.config["model"] |= {"attn_implementation": attention, "dtype": "bfloat16"}
    sft.config["training_args"] |= {"bf16": True, "max_steps": 1, "per_device_train_batch_size": 40}
    sft.train_apart()
    (plain,) = sft.losses()
    sft.config["data"] |= {"packing": True, "max_length": 300}
    sft.train_apart()
    print(attention, plain, sft.losses())
    assert sft.losses()[-1:] == pytest.approx([plain], rel=1e-3)
