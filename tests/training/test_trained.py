"""A run that trained nothing, or not what was asked, does not end well; its record counts what it has trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest


def outcome(sft, part: str = "train") -> tuple[int, ...]:
    """Of the account the rows trained or evaluated, and of the summary rows, examples, tokens and trained tokens."""
    data = sft.record()["data"]
    (source,) = data[part]["sources"]
    numbers = {key: data[part][key] for key in ("kept", "examples", "tokens", "trained")}
    assert (source["rows"], *(source[key] for key in ("examples", "tokens", "trained"))) == (*numbers.values(),)
    return (data["rows"]["trained" if part == "train" else "evaluated"], *numbers.values())


@pytest.mark.parametrize("streaming", [False, True])
def test_the_account_counts_the_rows_that_were_trained(sft, streaming):
    sft.config["data"]["streaming"] = streaming
    said = sft.train("training_args.per_device_train_batch_size=3", "training_args.max_steps=4")
    record = sft.record()
    trained, kept, examples, tokens, of_them = outcome(sft)
    assert (trained, kept, examples) == (12, 12, 12)
    seen = record["metrics"].get("num_input_tokens_seen") or sft.metrics()[-1]["num_input_tokens_seen"]
    assert tokens == seen
    assert 0 < of_them < tokens
    assert record["data"]["rows"]["dropped"] == {"read, but not trained before the run ended": 28}
    assert "12 trained, 28 read, but not trained before the run ended" in said


def test_rows_of_several_epochs_count_once(sft):
    sft.config["training_args"] |= {"per_device_train_batch_size": 16, "max_steps": 5}
    sft.train()
    assert outcome(sft)[:3] == (40, 40, 40)
    assert sft.record()["data"]["rows"]["dropped"] == {}


def test_rows_of_incomplete_batches_are_not_trained(sft, eval_rows):
    sft.config["data"]["eval"] = str(eval_rows)
    sft.config["training_args"] |= {
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 30,
        "dataloader_drop_last": True,
        "max_steps": 2,
    }
    sft.train()
    assert outcome(sft)[:3] == (32, 32, 32)
    assert outcome(sft, "eval")[:3] == (30, 30, 30)
    assert sft.record()["data"]["rows"]["dropped"] == {
        "read, but not trained before the run ended": 8,
        "read, but never evaluated": 10,
    }


def test_rows_of_a_set_that_is_never_evaluated(sft, eval_rows):
    sft.config["data"]["eval"] = str(eval_rows)
    sft.train("training_args.eval_strategy='no'")
    assert outcome(sft, "eval") == (0, 0, 0, 0, 0)
    assert sft.record()["data"]["rows"]["dropped"]["read, but never evaluated"] == 40


def test_packed_rows_and_several_sources(sft, rows, tmp_path):
    lines = rows.read_text().splitlines()
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for path, part in zip(paths, (lines[:10], lines[10:]), strict=True):
        path.write_text("\n".join(part))
    sft.config["data"] = {"train": [str(path) for path in paths], "packing": True, "max_length": 300}
    sft.config["training_args"] |= {"per_device_train_batch_size": 1, "max_steps": 2}
    sft.train()
    data = sft.record()["data"]
    first, second = data["train"]["sources"]
    assert [first["path"], second["path"]] == [str(path) for path in paths]
    assert first["rows"] + second["rows"] == data["rows"]["trained"] == data["train"]["kept"] < 40
    assert data["train"]["tokens"] == first["tokens"] + second["tokens"] <= 600
    assert data["train"]["tokens"] == sft.metrics()[-1]["num_input_tokens_seen"] or data["train"]["tokens"] > 500


def test_a_resumed_run_counts_from_its_first_step(sft):
    sft.config["training_args"] |= {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    sft.train()
    whole = sft.record()["data"]
    shutil.rmtree(sft.out / "checkpoint-4")
    sft.train("training_args.resume_from_checkpoint=auto")
    assert sft.record()["data"] == whole
    assert whole["rows"]["trained"] == 16


# ---- nothing is trained ----


def test_fewer_rows_than_a_batch_are_an_error_before_the_weights_are_loaded(sft):
    sft.config["training_args"] |= {"dataloader_drop_last": True, "per_device_train_batch_size": 41}
    done = sft.run_here()
    assert done.code == 2
    assert "training_args.dataloader_drop_last: nothing would be trained: there are 40 rows" in done.said
    assert "parameters trained" not in done.said


@pytest.fixture
def broken(sft, tiny, tmp_path):
    """A folder with the tiny model, of which one weight is not a number."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(tiny, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    sft.config["model"]["name_or_path"] = str(folder)
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_a_run_whose_steps_are_all_skipped_fails(sft, broken, streaming):
    sft.config["data"]["streaming"] = streaming
    done = sft.run_here("method=lora", "non_finite.action=skip")
    assert done.code == 2
    assert "the run has trained nothing: the update of each of its 3 steps was skipped" in done.said
    record = sft.record()
    assert record["status"] == "failed"
    assert record["data"]["rows"]["trained"] == record["data"]["train"]["tokens"] == 0
    assert not [*sft.out.glob("*.safetensors")]


def test_a_run_that_ends_with_weights_that_are_not_finite_fails(sft, broken):
    done = sft.run_here("method=lora", "non_finite.action=continue")
    assert done.code == 2
    assert "the trained weights are not finite (base_model.model.model.layers.0." in done.said
    assert not [*sft.out.glob("*.safetensors")]


# ---- not what was asked ----


@pytest.fixture
def finished(sft):
    """A run of three steps with a checkpoint."""
    sft.config["training_args"] |= {"save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-3}
    sft.train()
    sft.config["training_args"]["resume_from_checkpoint"] = "auto"
    return sft


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.1),
        ("lr_scheduler_type", "cosine"),
        ("warmup_steps", 2.0),
        ("weight_decay", 0.5),
        ("adam_beta1", 0.5),
        ("adam_epsilon", 1e-4),
    ],
)
def test_what_the_state_holds_cannot_be_changed(finished, name, value):
    record = (finished.out / "run.json").read_text()
    done = finished.run_here(f"training_args.{name}={value}", "training_args.max_steps=6")
    assert done.code == 2
    assert f"the state of its optimizer and schedule holds training_args.{name} (" in done.said
    assert f"{value} here); set it back" in done.said
    assert (finished.out / "run.json").read_text() == record


def test_more_steps_continue_on_the_longer_schedule(finished):
    said = finished.train("training_args.max_steps=6")
    rates = [line["learning_rate"] for line in finished.metrics() if "learning_rate" in line]
    assert rates[3:] == pytest.approx([5e-4, 1e-3 / 3, 1e-3 / 6])
    assert (
        "the checkpoint is of a run of 3 steps, and this one has 6: its learning rate follows the schedule of all 6"
        in said
    )
    assert "is now 0.0005 instead of 0" in said


def test_nothing_is_left_to_train(finished):
    said = finished.train("training_args.max_steps=2")
    assert "the checkpoint has 3 steps, and the run is to have 2: nothing is left to train" in said
    assert finished.record()["steps"] == 3


def test_updates_that_are_rounded_away_are_reported(sft):
    sft.config["training_args"]["learning_rate"] = 1e-5
    assert "trained weights in bfloat16: an update of less than about 1/256 of a weight" in sft.train(
        "model.dtype=bfloat16", "training_args.max_steps=1"
    )
    assert "rounded away" not in sft.train("method=lora", "model.dtype=bfloat16", "training_args.max_steps=1")


@pytest.mark.parametrize("cached", [True, False])
def test_the_saved_configuration_has_the_cache_as_the_base_had_it(sft, tiny, tmp_path, cached):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text()) | {"use_cache": cached}
    (folder / "config.json").write_text(json.dumps(config))
    sft.config["model"]["name_or_path"] = str(folder)
    sft.config["training_args"] |= {"activation_checkpointing": True, "save_strategy": "steps", "save_steps": 3}
    sft.train()
    for path in (sft.out, sft.out / "checkpoint-3"):
        assert json.loads(Path(path, "config.json").read_text())["use_cache"] is cached
