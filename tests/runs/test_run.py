"""A run from end to end: its status lines, its output folder, and its errors."""

from __future__ import annotations

import json
import shutil

import pytest


def test_the_output_folder_of_a_run(sft):
    sft.config["ask"] = {"questions": ["What is 1 plus one?"], "max_new_tokens": 4}
    sft.config["training_args"] |= {"save_strategy": "steps", "save_steps": 2}
    said = sft.train()
    names = {path.name for path in sft.out.iterdir()}
    assert names >= {
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "checkpoint-2",
        "metrics.jsonl",
        "run.json",
    }
    record = sft.record()
    assert record["status"] == "finished"
    assert record["steps"] == 3
    assert record["config"]["method"] == {"name": "sftcore/full"}
    assert record["config"]["data"]["max_length"] == 2048  # a default, resolved
    assert record["training_args"]["per_device_train_batch_size"] == 4
    assert {item["component"] for item in record["plugins"].values()} == {
        "sftcore/full",
        "sftcore/messages",
        "sftcore/none",
    }
    assert set(record["versions"]) >= {"sftcore", "torch", "transformers", "python"}
    assert record["base_model"]["fingerprint"].startswith("sha256:")
    assert record["data"]["train"]["rows"] == record["data"]["train"]["kept"] == 12
    assert record["command"][1:4] == ["-m", "sftcore", "run"]
    assert record["asked"][0].keys() == {"question", "before", "after"}
    assert "rows.jsonl: 40 rows, format messages (auto)" in said
    assert "the tokenizer's own" in said
    assert "tokens/s" in said


@pytest.mark.slow
def test_equal_runs_are_equal_and_the_data_fingerprint_shows_other_data(sft, rows):
    sft.train()
    first, losses = sft.record(), sft.losses()
    sft.config["training_args"]["output_dir"] += "-2"
    sft.train()
    assert sft.losses() == losses
    assert sft.record()["data"]["fingerprint"] == first["data"]["fingerprint"]
    assert sft.record()["base_model"] == first["base_model"]
    fewer = sft.folder / "fewer.jsonl"
    fewer.write_text("\n".join(rows.read_text().splitlines()[1:]))
    sft.config["data"]["train"] = str(fewer)
    sft.train()
    assert sft.record()["data"]["fingerprint"] != first["data"]["fingerprint"]


def test_the_seed_changes_the_run(sft):
    sft.train()
    losses = sft.losses()
    sft.train("seed=7", f"training_args.output_dir={sft.out}-2")
    sft.config["training_args"]["output_dir"] += "-2"
    assert sft.losses() != losses


def test_a_second_run_in_an_output_folder_keeps_the_files_of_the_first(sft):
    sft.train()
    losses = sft.losses()
    sft.train("training_args.max_steps=1")
    assert len(sft.losses()) == 1
    (earlier,) = (sft.out / "earlier").iterdir()
    assert [json.loads(line).get("loss") for line in (earlier / "metrics.jsonl").read_text().splitlines()][:3] == losses
    assert json.loads((earlier / "run.json").read_text())["steps"] == 3


@pytest.mark.slow
def test_resume_from_checkpoint_continues_with_the_same_losses(sft):
    sft.config["training_args"] |= {"max_steps": 6}
    sft.train()
    whole = sft.losses()
    sft.config["training_args"] |= {"output_dir": str(sft.out) + "-2", "save_strategy": "steps", "save_steps": 3}
    sft.train()
    (sft.out / "metrics.jsonl").unlink()
    sft.train(f"training_args.resume_from_checkpoint={sft.out}/checkpoint-3")
    assert sft.losses() == whole[3:]


def test_a_run_that_fails_says_so_in_run_json(sft, monkeypatch):
    from sftcore.runs import session

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr(session, "export_model", fail)
    with pytest.raises(OSError, match="no space left"):
        sft.run_here()
    record = sft.record()
    assert record["status"] == "failed"
    assert record["error"] == "OSError: no space left"


def test_packing_trains_like_unpacked_rows(sft):
    """All rows in one step: the loss of a step is the same, packed or not."""
    sft.config["training_args"] |= {"max_steps": 1, "per_device_train_batch_size": 40}
    sft.train()
    (plain,) = sft.losses()
    sft.config["data"] |= {"packing": True, "max_length": 300}
    said = sft.train()
    assert sft.losses() == pytest.approx([plain], rel=1e-6)
    message = sft.record()["data"]["train"]["packing"]
    assert message["rows_before"] == 40
    assert message["rows"] < 40
    assert f"40 examples packed into {message['rows']} rows of 300 tokens, {message['fill']:.2%} full; " in said
    assert f"batches of 40 unpacked would be {message['padding_avoided']:.1%} padding" in said


def test_packing_is_rejected_where_conversations_would_see_each_other(sft, tmp_path):
    """A real model with a state that runs along the row; nothing of it is trained, and nothing is saved."""
    from transformers import AutoTokenizer, RwkvConfig, RwkvForCausalLM

    folder = tmp_path / "rwkv"
    tokenizer = AutoTokenizer.from_pretrained(sft.config["model"]["name_or_path"])
    tokenizer.save_pretrained(folder)
    RwkvForCausalLM(RwkvConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2)).save_pretrained(folder)
    sft.config["model"] = {"name_or_path": str(folder)}
    sft.train("training_args.max_steps=1")
    done = sft.run_here("data.packing=true")
    assert done.code == 2
    assert "RwkvForCausalLM with the attention 'eager' does not isolate packed conversations" in done.said
    assert "set data.packing to false" in done.said
    assert sft.record()["status"] == "failed"


def test_the_evaluation_loss_is_a_mean_over_tokens(sft, eval_rows):
    sft.config["data"]["eval"] = str(eval_rows)
    sft.config["training_args"] |= {"max_steps": 1, "learning_rate": 0.0, "eval_strategy": "steps", "eval_steps": 1}
    losses = set()
    for batch in (1, 3, 40):
        sft.train(f"training_args.per_device_eval_batch_size={batch}")
        losses.add(round(next(line["eval_loss"] for line in sft.metrics() if "eval_loss" in line), 5))
    assert len(losses) == 1


def test_rows_of_the_holdout_set_are_evaluated_by_default(sft):
    sft.config["data"]["eval"] = {"fraction": 0.25}
    sft.train()
    assert any("eval_loss" in line for line in sft.metrics())
    record = sft.record()["data"]
    assert (record["train"]["rows"], record["eval"]["rows"]) == (12, 10)


def test_every_row_is_accounted_for_and_rejected_rows_are_in_quarantine(sft, rows):
    mixed = sft.folder / "mixed.jsonl"
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]}
    odd = {"messages": [{"role": "user", "content": "q"}, call]}
    bad = ["{", *['{"messages": "x"}'] * 6, '{"messages": [{"role": "user", "content": "\\ud83d"}]}']
    mixed.write_text("\n".join([*rows.read_text().splitlines(), *bad, json.dumps(odd)]))
    sft.config["data"] = {
        "train": [{"path": str(mixed), "repeat": 2}],
        "eval": {"path": str(rows), "limit": 10},
        "max_bad_rows": 8,
    }
    said = sft.train("training_args.max_steps=-1", "training_args.num_train_epochs=1")
    became = sft.record()["data"]["rows"]
    assert became["read"] == 40 + 8 + 1 + 10
    assert (became["trained"], became["evaluated"]) == (30, 10)
    assert became["dropped"] == {"also in data.eval": 10}
    assert [became["rejected"][reason] for reason in list(became["rejected"])[:1]] == [6]
    assert sum(became["rejected"].values()) == 9
    quarantine = [json.loads(line) for line in (sft.out / "quarantine.jsonl").read_text().splitlines()]
    assert [line["source"] for line in quarantine] == [f"{mixed}:{line}" for line in range(41, 50)]
    assert [line.get("row", line.get("raw")) for line in quarantine] == ["{", *map(json.loads, bad[1:]), odd]
    for line in (
        f"data  {mixed}: 49 rows, format messages (auto), 8 rejected:",
        f"data    {mixed}:41: not valid JSON: ",
        "data    ... and 3 more",
        f"data  {mixed}: 30 of 30 rows sampled, as 60 of 60 in an epoch (100.0%)",
        "train  30 rows in 60 examples, ",
        "rows  59 rows read: 30 trained, 10 evaluated, 9 rejected, 10 also in data.eval",
        f"rejected  9 rows, saved in {sft.out}/quarantine.jsonl",
    ):
        assert line in said
    sft.config["data"] = {"train": str(rows)}
    assert "rejected" not in sft.train()
    assert not (sft.out / "quarantine.jsonl").exists()


def test_malformed_rows_end_the_run_before_weights_are_loaded(sft, rows, tiny):
    rows_and_bad = sft.folder / "bad.jsonl"
    rows_and_bad.write_text(rows.read_text() + "\n{\n[]\n")
    sft.config["data"] = {"train": str(rows_and_bad), "max_bad_rows": 1}
    bare = shutil.copytree(tiny, sft.folder / "bare")
    (bare / "model.safetensors").write_bytes(b"not weights")
    sft.config["model"]["name_or_path"] = str(bare)
    done = sft.run_here()
    assert done.code == 2
    assert "error: 2 rows cannot be used; fix or remove:\n" in done.said
    assert done.said.endswith("data.max_bad_rows is 1\n")
    assert not sft.out.exists()


def test_a_configured_template_is_used_and_saved(sft, tiny):
    from transformers import AutoTokenizer

    sft.config["template"] = "deepseek_chat"
    said = sft.train()
    assert "'sftcore/deepseek_chat', because the configuration names it" in said
    assert "User: " in AutoTokenizer.from_pretrained(sft.out).chat_template


def test_a_template_of_another_model_is_an_error_with_those_that_fit(sft):
    sft.config["template"] = "llama3_instruct"
    done = sft.run_here()
    assert done.code == 2
    assert (
        "template: its markers <|begin_of_text|>, <|start_header_id|>, <|end_header_id|>, <|eot_id|> are not"
        in done.said
    )
    assert (
        "templates beside it whose markers are tokens: alpaca, deepseek_chat, qwen2_chatml; without 'template'"
        in done.said
    )


@pytest.fixture
def loaded_with_warnings(sft, tiny):
    """Train a copy of the tiny model with other weights and configuration; return its output."""
    from safetensors.torch import load_file, save_file

    def train(more, **config):
        folder = shutil.copytree(tiny, sft.folder / "changed")
        weights = load_file(folder / "model.safetensors")
        save_file({**weights, **more}, folder / "model.safetensors", metadata={"format": "pt"})
        own = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**own, **config}))
        sft.config["model"]["name_or_path"] = str(folder)
        return sft.train("training_args.max_steps=1")

    return train


def test_weights_of_the_checkpoint_that_are_not_used_are_reported(loaded_with_warnings):
    import torch

    said = loaded_with_warnings({"score.weight": torch.ones(2, 32)})
    line = "without 1 weight of its checkpoint, which LlamaForCausalLM does not have, such as score.weight"
    assert said.count("score.weight") == said.count(line) == 1


def test_an_output_layer_that_config_json_denies_is_trained_and_saved(loaded_with_warnings, sft, tiny):
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    shape = load_file(tiny / "model.safetensors")["model.embed_tokens.weight"].shape
    said = loaded_with_warnings({"lm_head.weight": torch.ones(shape)})
    assert said.count("tie_word_embeddings") == said.count("has its own weights for the output layer") == 1
    assert json.loads((sft.out / "config.json").read_text())["tie_word_embeddings"] is False
    saved = AutoModelForCausalLM.from_pretrained(sft.out)
    assert abs(saved.lm_head.weight.mean().item() - 1) < 0.1


def test_a_warning_of_peft_is_reported(sft):
    sft.config["method"] = {"name": "lora", "r": 2, "eva_config": {}}
    said = sft.train("training_args.max_steps=1")
    assert "   warning  peft: `eva_config` specified but will be ignored when" in said
    assert said.count("peft:") == 1


def test_a_run_that_trains_no_weight_is_an_error(sft):
    sft.config["method"] = {"name": "lora", "inference_mode": True}
    done = sft.run_here()
    assert done.code == 2
    assert "the method trains no weight of the model" in done.said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("training_args", {"learning_rat": 1}),
            "training_args.learning_rat: unknown key; did you mean 'learning_rate'?",
        ),
        (("training_args", {"learning_rate": "fast"}), "training_args.learning_rate: should be a number"),
        (("training_args", {"packing": True}), "training_args.packing: unknown key; it is data.packing"),
        (("training_args", {"report_to": "wandb"}), "training_args.report_to: cannot be set here: name trackers"),
        (("training_args", {"deepspeed": "x.json"}), "training_args.deepspeed: is set by the backend 'deepspeed'"),
        (
            ("training_args", {"eval_strategy": "steps"}),
            "training_args.eval_strategy: the run has no rows to",
        ),
        (("model", {"name_or_path": "/no/such/model"}), "model.name_or_path: /no/such/model is neither"),
        (
            ("model", {"name_or_path": "tiyn"}),
            "model.name_or_path: the folder tiyn does not exist, and the hub cannot be reached: ",
        ),
        (
            ("model", {"name_or_path": "a model"}),
            "model.name_or_path: the folder a model does not exist, and this is not a hub id",
        ),
        (("model", {"name_or_path": "package:no_such/x.gguf"}), "the Python package 'no_such' is not installed"),
        (("data", {"train": "no/such.jsonl"}), "the file does not exist"),
        (("method", "lroa"), "no installed plugin offers the method 'lroa'; did you mean 'lora'?"),
        (
            ("method", {"name": "lora", "lora_dropuot": 0.1}),
            "method.lora_dropuot: unknown key; did you mean 'lora_dropout'?",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_a_configuration_error_is_one_clear_message(sft, change, message):
    key, value = change
    sft.config[key] = {**sft.config[key], **value} if isinstance(sft.config.get(key), dict) else value
    done = sft.run_here()
    assert done.code == 2
    assert message in done.said
    assert "finetune.yaml" in done.said or "data source" in done.said
    assert "Traceback" not in done.said
    assert not (sft.out / "run.json").exists()


def test_a_model_with_missing_weights_is_rejected(sft, tiny, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    weights = load_file(broken / "model.safetensors")
    weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    sft.config["model"]["name_or_path"] = str(broken)
    done = sft.run_here()
    assert done.code == 2
    problem = "lacks 1 weight of its architecture, which would be initialized randomly"
    assert f"{problem}: model.layers.0.mlp.up_proj.weight" in done.said


def test_a_mistyped_argument_is_reported_before_any_row_is_read(sft):
    sft.config["training_args"]["learning_rat"] = 1
    sft.config["data"]["train"] = "no/such.jsonl"
    assert "training_args.learning_rat: unknown key" in sft.run_here().said


def test_a_launcher_that_does_not_set_rank_is_an_error(sft, monkeypatch):
    from sftcore.runtime.rank_control import LAUNCH_FOLDER_VARIABLE

    monkeypatch.setenv(LAUNCH_FOLDER_VARIABLE, "1")
    sft.config["backend"] = "torchrun"
    done = sft.run_here()
    assert done.code == 2
    assert "would start launchers forever" in done.said


def test_sections_of_the_configuration_may_be_empty(sft):
    sft.config["training_args"] = sft.config["ask"] = None
    sft.train("training_args.max_steps=1", f"training_args.output_dir={sft.folder / 'out'}")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"resume_from_checkpoint": "nope"},
            "resume_from_checkpoint: nope cannot be resumed from: it does not exist",
        ),
        ({"output_dir": "rows.txt/out"}, "training_args.output_dir: rows.txt/out cannot be created"),
        (
            {"train_sampling_strategy": "group_by_length"},
            "train_sampling_strategy: 'group_by_length' does not work here",
        ),
        ({"use_cache": True}, "training_args.use_cache: cannot be set here"),
        (
            {"use_liger_kernel": True, "liger_kernel_config": {"fused_linear_cross_entropy": True}},
            "liger_kernel_config: 'fused_linear_cross_entropy' would have no effect: the loss is",
        ),
        ({"optim_target_modules": ["q_proj"]}, "optim_target_modules: is read only with an 'optim' of galore, apollo"),
        ({"optim": "adalomo"}, "training_args.optim: 'adalomo' does not work here: it takes each step within"),
        ({"optim": "galore_adamw_layerwise"}, "training_args.optim: 'galore_adamw_layerwise' does not work here"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_errors_of_the_user_are_messages_without_a_traceback(sft, args, message):
    (sft.folder / "rows.txt").write_text("")
    sft.config["training_args"] |= args
    done = sft.run_here()
    assert done.code == 2
    assert message in done.said


@pytest.mark.slow
def test_a_run_stopped_by_sigterm_says_so_in_run_json(sft):
    import os
    import signal
    import subprocess
    import sys
    import time

    sft.config["training_args"] |= {"max_steps": 100000}
    run = subprocess.Popen(
        [sys.executable, "-m", "sftcore", "run", "--config", str(sft.write())], stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not (sft.out / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        os.kill(run.pid, signal.SIGTERM)
        assert run.wait(60) == 75
    finally:
        run.kill()
    assert sft.record()["status"] == "interrupted"
    assert sft.losses()


def own_model(sft, tmp_path):
    """A copy of the model that may be changed; its folder."""
    folder = tmp_path / "own"
    shutil.copytree(sft.config["model"]["name_or_path"], folder)
    sft.config["model"]["name_or_path"] = str(folder)
    return folder


@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_sampling_settings_without_do_sample_are_saved_with_it(sft, tmp_path, method):
    sft.config["method"] = method
    settings = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": 2}
    (own_model(sft, tmp_path) / "generation_config.json").write_text(json.dumps(settings))
    said = sft.train()
    assert "sets temperature, top_p without do_sample: saved with do_sample: true" in said
    saved = json.loads((sft.out / "generation_config.json").read_text())
    assert (saved["do_sample"], saved["temperature"], saved["top_p"]) == (True, 0.6, 0.9)


def test_a_side_file_that_cannot_be_saved_is_reported_before_the_first_step(sft, monkeypatch):
    import transformers

    def fail(*args, **kwargs):
        raise ValueError("no such thing")

    monkeypatch.setattr(transformers.GenerationConfig, "save_pretrained", fail)
    done = sft.run_here()
    assert done.code == 2
    assert "could not be saved: no such thing" in done.said
    assert not (sft.out / "metrics.jsonl").exists()
    monkeypatch.undo()
    monkeypatch.setattr(transformers.PretrainedConfig, "save_pretrained", fail)
    done = sft.run_here()
    assert done.code == 2
    assert "of the model cannot be saved, so neither could it after training: ValueError: no such thing" in done.said
    assert not (sft.out / "model.safetensors").exists()
    assert not (sft.out / "model.trial").exists()


def test_weights_are_kept_where_a_file_beside_them_cannot_be_written(sft, monkeypatch):
    import transformers

    save = transformers.PreTrainedTokenizerBase.save_pretrained

    def fail_at_last(self, folder, *args, **kwargs):
        if "model.writing" in str(folder):
            raise OSError(28, "No space left on device")
        return save(self, folder, *args, **kwargs)

    monkeypatch.setattr(transformers.PreTrainedTokenizerBase, "save_pretrained", fail_at_last)
    done = sft.run_here()
    assert done.code == 2
    assert "No space left on device" in done.said
    assert "the weights are written, but not all files beside them" in done.said
    assert (sft.out / "model.safetensors").is_file()
    assert not (sft.out / "model.writing").exists()
    assert sft.record()["status"] == "failed"


def test_nothing_is_written_through_a_symbolic_link(sft, tmp_path):
    sft.out.mkdir()
    (tmp_path / "elsewhere").write_text("mine")
    for name in ("quarantine.jsonl", "metrics.jsonl"):
        (sft.out / name).symlink_to(tmp_path / "elsewhere")
    done = sft.run_here()
    assert done.code == 2
    assert "nothing is written through symbolic links; remove metrics.jsonl, quarantine.jsonl" in done.said
    assert (tmp_path / "elsewhere").read_text() == "mine"


@pytest.mark.parametrize("key", ["push_to_hub", "hub_model_id"])
def test_nothing_is_uploaded(sft, key):
    done = sft.run_here(f"training_args.{key}=true" if key == "push_to_hub" else f"training_args.{key}=me/x")
    assert done.code == 2
    assert f"training_args.{key}: cannot be set here: nothing is uploaded" in done.said
