"""Every method trains the real SmolLM2, and what it saves is the model that was trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sftcore_plugins.methods.lora import LoRA

from sftcore import ConfigError

HERE = Path(__file__).parent
IDS = json.dumps([1, 4093, 198, 3725, 359, 346, 47, 2, 198, 1, 520, 9531, 198, 57, 744])


def logits_of(script, *args):
    target = args[0]
    done = subprocess.run(
        [sys.executable, str(HERE / script), IDS, *map(str, args)],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return np.load(target)


@pytest.mark.slow  # `make demo` is the fast one of its kind
@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_trains_smollm2_and_saves_what_it_trained(sft, smollm2, tmp_path, method):
    sft.config["model"]["name_or_path"] = str(smollm2)
    sft.config["method"] = method
    sft.config["training_args"] |= {
        "max_steps": 20,
        "per_device_train_batch_size": 2,
        "learning_rate": 2e-5 if method == "full" else 1e-3,
    }
    live = logits_of("live_logits.py", tmp_path / "live.npy", "run", "--config", sft.write())
    losses = sft.losses()
    assert len(losses) == 20
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    base = [] if method == "full" else [smollm2]
    bits = ["4bit"] if method == "qlora" else []
    plain = logits_of("plain_logits.py", tmp_path / "plain.npy", sft.out, *base, *bits)
    difference = float(np.abs(live - plain).max())
    print(f"{method}: max |difference| of logits {difference:.2e}")
    assert difference <= 1e-4


def test_the_saved_folder_serves_as_it_was_trained(sft, smollm2):
    from transformers import AutoTokenizer, GenerationConfig

    sft.config["method"] = {"name": "lora", "r": 2}
    sft.train()
    tokenizer, base = AutoTokenizer.from_pretrained(sft.out), AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer.chat_template == base.chat_template
    assert GenerationConfig.from_pretrained(sft.out).eos_token_id == [base.eos_token_id]
    assert not list(sft.out.rglob("training_args.bin"))


@pytest.mark.parametrize("option", ["use_dora", "use_rslora"])
def test_options_of_peft_are_options_of_lora(sft, option):
    sft.config["method"] = {"name": "lora", "r": 4, option: True, "lora_dropout": 0.1}
    sft.train()
    saved = json.loads((sft.out / "adapter_config.json").read_text())
    assert saved["r"] == 4
    assert saved[option] is True
    assert saved["lora_dropout"] == 0.1


def test_pissa_and_lora_plus(sft):
    sft.config["method"] = {"name": "lora", "r": 4, "init_lora_weights": "pissa", "loraplus_lr_ratio": 16}
    sft.train()
    assert json.loads((sft.out / "adapter_config.json").read_text())["init_lora_weights"] == "pissa"


def test_lora_plus_learns_b_faster(tiny):
    from transformers import AutoModelForCausalLM, TrainingArguments

    args = TrainingArguments(output_dir="unused", use_cpu=True, learning_rate=1e-4)
    method = LoRA(r=2, loraplus_lr_ratio=8)
    model = method.prepare(AutoModelForCausalLM.from_pretrained(tiny), args)
    groups = method.optimizer(model, args).param_groups
    assert {round(group["lr"] / 1e-4, 3) for group in groups if group["params"]} == {1.0, 8.0}
    assert LoRA().optimizer(model, args) is None


def test_options_that_peft_rejects_are_one_clear_error(tiny):
    from transformers import AutoModelForCausalLM, TrainingArguments

    args = TrainingArguments(output_dir="unused", use_cpu=True)
    with pytest.raises(ConfigError, match="PEFT rejects the options of the method: Target modules"):
        LoRA(target_modules=["no_such_layer"]).prepare(AutoModelForCausalLM.from_pretrained(tiny), args)


def test_activation_checkpointing_reaches_the_adapters(sft):
    sft.config["method"] = {"name": "lora", "r": 4}
    sft.train()
    plain = sft.losses()
    sft.config["training_args"] |= {"output_dir": str(sft.out) + "-2", "activation_checkpointing": True}
    sft.train()
    assert sft.losses() == pytest.approx(plain, rel=1e-5)
    assert all(line["grad_norm"] > 0 for line in sft.metrics() if "grad_norm" in line)


@pytest.mark.slow
def test_evaluating_does_not_disturb_qlora(sft, eval_rows):
    """One evaluation used to end 4-bit training on CPUs with AVX512-BF16, silently."""
    sft.config["method"] = {"name": "qlora", "r": 4}
    sft.config["training_args"] |= {"max_steps": 4, "learning_rate": 1e-2}
    sft.train()
    plain = [(line["loss"], line["grad_norm"]) for line in sft.metrics() if "loss" in line]
    sft.config["data"]["eval"] = str(eval_rows)
    sft.config["training_args"] |= {"output_dir": str(sft.out) + "-2", "eval_strategy": "steps", "eval_steps": 1}
    sft.train()
    assert [(line["loss"], line["grad_norm"]) for line in sft.metrics() if "loss" in line] == plain


def test_full_trains_every_weight():
    from sftcore_plugins.methods.full import Full

    model = torch.nn.Linear(2, 2).requires_grad_(False)
    assert all(weight.requires_grad for weight in Full().prepare(model, None).parameters())
