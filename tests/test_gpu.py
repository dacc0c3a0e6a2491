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


def packed_and_alone(attention: str, dtype: torch.dtype) -> tuple[list[torch.Tensor], list[torch.Tensor], list[float]]:
    """Return the logits of each document, packed and alone, and by how much its loss differs.

    The check that a run makes has passed before.
    """
    import random
    from types import SimpleNamespace

    from transformers import LlamaConfig, LlamaForCausalLM

    from sftcore import Example, Origin
    from sftcore.data import Collator, PackedSet
    from sftcore.isolation import PackingCheck
    from sftcore.loss import TokenMean
    from sftcore.train import wants_flat_rows

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=200,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.05,
        use_cache=False,
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation=attention, dtype=dtype).cuda().train()
    chance = random.Random(3)
    documents = []
    for number, length in enumerate((40, 1, 23, 64, 9, 50, 17, 30, 5, 61)):
        ids = chance.choices(range(3, 190), k=length)
        documents.append(Example(ids, ids, (length,), (Origin("f", number),)))
    packed = PackedSet(documents, 128)
    collator = Collator(0, packed=True, flat=wants_flat_rows(model))
    args = SimpleNamespace(bf16=False, fp16=False)
    PackingCheck(packed, collator).on_train_begin(args, None, None, model=model)
    model.eval()
    batch = {name: values.cuda() for name, values in collator([*packed]).items()}
    labels = batch.pop("labels").flatten()
    starts = (batch["position_ids"].flatten() == 0).nonzero().flatten().tolist()
    together, alone, losses = [], [], []
    with torch.no_grad():
        logits = model(**batch).logits.flatten(0, 1)
        for number in (number for row in packed.bins.fixed() for number in row):
            ids = torch.tensor([documents[number].input_ids]).cuda()
            length = ids.shape[1]
            at = next(at for at in starts if batch["input_ids"].flatten()[at : at + length].equal(ids[0]))
            together.append(logits[at : at + length].float())
            alone.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].float())
            each = [
                TokenMean()({"logits": part[-1][None]}, labels[None, at : at + length]) for part in (together, alone)
            ]
            losses.append(float((each[0] - each[1]).abs()))
    return together, alone, losses


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
def test_packed_documents_have_the_logits_they_have_alone(attention):
    together, alone, losses = packed_and_alone(attention, torch.float32)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert max(losses) <= 1e-5


def test_packed_documents_have_the_logits_they_have_alone_with_flash_attention():
    """That kernel has no float32, so what counts is the rounding of bfloat16."""
    pytest.importorskip("flash_attn", reason="needs the package flash-attn")
    together, alone, losses = packed_and_alone("flash_attention_2", torch.bfloat16)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.03 * float(other.abs().max()))
    assert max(losses) <= 0.03


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention", "flash_attention_2"])
def test_a_packed_run_has_the_loss_of_an_unpacked_one(sft, attention):
    """All rows in one step, so that both have the same tokens."""
    if attention == "flash_attention_2":
        pytest.importorskip("flash_attn", reason="needs the package flash-attn")
    sft.config["model"]["attn_implementation"] = attention
    sft.config["training_args"] |= {"bf16": True, "max_steps": 1, "per_device_train_batch_size": 40}
    sft.train_apart()
    (plain,) = sft.losses()
    sft.config["data"] |= {"packing": True, "max_length": 300}
    sft.train_apart()
    assert sft.losses() == pytest.approx([plain], rel=1e-2)
