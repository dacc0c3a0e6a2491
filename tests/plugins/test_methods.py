"""Every method trains the real SmolLM2, and what it saves is the model that was trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sftcore_plugins.methods.lora import LoRA
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3MoeConfig

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


ARGS = SimpleNamespace(activation_checkpointing=False)


def without_weights(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def llama(tied=True):
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return without_weights(LlamaConfig(vocab_size=50, tie_word_embeddings=tied, **sizes))


def experts():
    sizes = {"hidden_size": 8, "intermediate_size": 16, "moe_intermediate_size": 8, "num_experts": 2, "head_dim": 4}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "num_experts_per_tok": 1}
    return without_weights(Qwen3MoeConfig(vocab_size=50, **sizes, **heads))


def problem_of(model, target="all-linear", **options):
    with pytest.raises(ConfigError) as refused:
        LoRA(target_modules=target, peft=options).prepare(model, ARGS)
    return str(refused.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (["q_proj", "v_porj"], "target_modules: 'v_porj' matches nothing in the model; did you mean 'v_proj' or"),
        (
            ["q_proj", "layers.7.mlp"],
            "target_modules: 'layers.7.mlp' matches nothing in the model; did you mean 'layers.",
        ),
        ("q_proj,v_proj", "matches no module as it is; a list is meant: [q_proj, v_proj]"),
        ("q_proj, v_proj", "a list is meant: [q_proj, v_proj]"),
        (["q_proj,v_proj"], "a list is meant: [q_proj, v_proj]"),
        ("q_proj", "a list is meant: [q_proj]"),
        ("all", "'all' matches no module; all-linear, outside a list, are all but the output layer"),
        (["all-linear"], "all-linear, outside a list, are all"),
        ([".*q_proj"], "'.*q_proj' is not a name; a regular expression is one text, not in a list"),
        (".*q_prj", "'.*q_prj' matches nothing in the model; did you mean 'q_proj'"),
        ("*", "'*' is not a regular expression: nothing to repeat"),
        (["W_pack"], "its linear layers are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head"),
        (["mlp"], "PEFT rejects the options of the method: Target module LlamaMLP("),
        ([], "PEFT rejects the options of the method: No `target_modules` passed"),
    ],
)
def test_a_target_that_matches_nothing(target, message):
    assert message in problem_of(llama(), target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude_modules": ["v_proj", "k_prj"]}, "exclude_modules: 'k_prj' matches nothing"),
        ({"exclude_modules": "v_prj"}, "exclude_modules: 'v_prj' matches nothing"),
        ({"modules_to_save": ["norm", "lm_hed"]}, "modules_to_save: 'lm_hed' matches nothing in the model; did you"),
        ({"rank_pattern": {"k_proj": 2, "q_poj": 4}}, "rank_pattern: 'q_poj' matches nothing"),
        ({"rank_pattern": {"lm_head": 2}}, "rank_pattern: 'lm_head' matches nothing"),
        ({"alpha_pattern": {"layers.9.mlp.up_proj": 2}}, "alpha_pattern: 'layers.9.mlp.up_proj' matches nothing"),
        (
            {"target_parameters": ["q_prj.weight"]},
            "target_parameters: 'q_prj.weight' matches nothing in the model; did",
        ),
        ({"trainable_token_indices": [3, 50]}, "trainable_token_indices: the model has no token 50; its 50 are"),
        ({"trainable_token_indices": [-1]}, "the model has no token -1"),
        ({"trainable_token_indices": {"embed_tokns": [1]}}, "trainable_token_indices: 'embed_tokns' matches nothing"),
        ({"alora_invocation_tokens": [1, 99]}, "alora_invocation_tokens: the model has no token 99"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication: the model has no layers 1 to 3; it has 2"),
        ({"use_bdlora": {"target_modules_bd_a": ["q_prj"], "nblocks": 2}}, "use_bdlora.target_modules_bd_a: 'q_prj'"),
        ({"init_lora_weights": "eva"}, "init_lora_weights: 'eva' would have no effect: needs data or code"),
        ({"init_lora_weights": "corda"}, "init_lora_weights: 'corda' would have no effect"),
        ({"use_qalora": True}, "use_qalora: True would have no effect: PEFT does it for GPTQ models alone"),
    ],
)
def test_a_name_in_an_option_that_matches_nothing(options, message):
    assert message in problem_of(llama(), **options)


def test_layers_that_the_model_does_not_have():
    assert "layers_to_transform: the model has no layer 5; it has 2" in problem_of(
        llama(), ["q_proj"], layers_to_transform=[0, 5]
    )
    assert "layers_pattern: 'h' matches nothing" in problem_of(
        llama(), ["q_proj"], layers_to_transform=[0], layers_pattern="h"
    )
    excluded = "target_modules: 'q_proj' matches only modules that exclude_modules, modules_to_save or"
    assert excluded in problem_of(llama(), ["q_proj", "v_proj"], exclude_modules=["q_proj"])


def test_all_names_that_match_nothing_are_reported_at_once():
    said = problem_of(llama(), ["v_porj", "k_prj"], modules_to_save=["nrm"], rank_pattern={"x": 1})
    assert [name for name in ("'v_porj'", "'k_prj'", "'nrm'", "'x'") if name not in said] == []


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("ALL-LINEAR", {}),
        (r".*\.(q|v)_proj", {}),
        (["model.layers.1.mlp.up_proj"], {}),
        (["q_proj"], {"layers_to_transform": 1, "layers_pattern": ["layers"]}),
        ("all-linear", {"exclude_modules": ["lm_head", "layers.0.mlp.up_proj"]}),
        ("all-linear", {"rank_pattern": {r"layers\.[01]\.self_attn\..*": 2}, "alpha_pattern": {"^model.*up_proj": 3}}),
        ("all-linear", {"modules_to_save": ["norm"], "trainable_token_indices": [3]}),
        ([], {"target_parameters": ["q_proj.weight"]}),
        ("all-linear", {"init_lora_weights": "pissa_niter_4"}),
    ],
)
def test_names_that_peft_finds_are_accepted(target, options):
    LoRA(target_modules=target, peft=options).prepare(llama(), ARGS)


def test_names_of_experts_that_have_become_parameters():
    model = LoRA(target_modules=["q_proj", "gate_proj", "up_proj", "down_proj"]).prepare(experts(), ARGS)
    assert {name.rpartition(".")[2] for name in model.base_model.targeted_parameter_names} == {
        "gate_up_proj",
        "down_proj",
    }
    assert "'w9' matches nothing" in problem_of(experts(), ["q_proj", "w9"])


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (["q_proj", "lm_head"], {}),
        (["q_proj", "embed_tokens"], {}),
        (".*(q_proj|lm_head)", {}),
        ("all-linear", {"modules_to_save": ["lm_head"]}),
        ("all-linear", {"modules_to_save": ["embed_tokens"]}),
        ("all-linear", {"trainable_token_indices": {"lm_head": [3]}}),
    ],
)
def test_weights_that_two_layers_share_are_not_trained_apart(target, options):
    said = problem_of(llama(), target, **options)
    assert "model.embed_tokens and lm_head share their weights (tie_word_embeddings)" in said
    LoRA(target_modules=target, peft=options).prepare(llama(tied=False), ARGS)


@pytest.mark.parametrize(
    "options",
    [
        {"modules_to_save": ["lm_head"], "ensure_weight_tying": True},
        {"modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
        {"trainable_token_indices": [5, 6]},
        {"trainable_token_indices": {"embed_tokens": [5, 6], "lm_head": [5, 6]}},
    ],
)
def test_a_merged_model_with_shared_weights_is_the_trained_one(tiny, options):
    model = LoRA(peft=options).prepare(AutoModelForCausalLM.from_pretrained(tiny), ARGS)
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += torch.randn_like(weight) * 0.1
    ids = torch.tensor([[5, 6, 7, 8]])
    trained = model(input_ids=ids).logits
    torch.testing.assert_close(model.merge_and_unload()(input_ids=ids).logits, trained, rtol=1e-4, atol=1e-4)


def test_options_are_not_changed_by_peft():
    method = LoRA(peft={"modules_to_save": ["lm_head"], "ensure_weight_tying": True})
    method.prepare(llama(), ARGS)
    assert method.peft["modules_to_save"] == ["lm_head"]


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
