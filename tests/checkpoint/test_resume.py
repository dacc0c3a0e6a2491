"""A run that was interrupted, anywhere and in any way, has the outcome of an uninterrupted one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from sftcore.checkpoint import tensor_tree
from tests.nursery import Kill, outcome
from tests.sizes import generator

WAYS = [*(pytest.param(method, 1, marks=pytest.mark.slow) for method in ("lora", "full")), ("lora", 2)]


@pytest.fixture(scope="module")
def whole():
    """Outcomes of uninterrupted runs, by their settings."""
    return {}


def uninterrupted(whole, nursery, make_run, method, ranks, **more):
    key = (method, ranks, json.dumps(more, sort_keys=True))
    if key not in whole:
        folder = make_run(f"whole-{method}-{ranks}", method, ranks=ranks, **more)
        assert set(nursery.run(folder, ranks=ranks)) == {0}, (folder / "log-0.txt").read_text()
        events = (folder / "events-0.txt").read_text().splitlines()
        whole[key] = outcome(folder / "out"), events
    return whole[key]


def finish(nursery, folder, ranks):
    """Resume the run to its end; its outcome."""
    codes = nursery.run(folder, "--resume", "auto", ranks=ranks)
    assert set(codes) == {0}, (folder / "log-0.txt").read_text()
    return outcome(folder / "out")


@pytest.mark.parametrize(("method", "ranks"), WAYS)
def test_a_run_killed_while_saving_resumes_as_if_it_had_not_been(nursery, make_run, whole, method, ranks):
    expected, events = uninterrupted(whole, nursery, make_run, method, ranks)
    assert len(expected["samples"]) == 7 * ranks
    within = [at for at, event in enumerate(events) if "checkpoint-4.writing/" in event]
    folder = make_run("killed", method, ranks=ranks)
    codes = nursery.run(folder, ranks=ranks, kill=Kill(generator(f"kill {method} {ranks}").choice(within), torn=True))
    assert codes[0] == -signal.SIGKILL
    assert finish(nursery, folder, ranks) == expected
    assert "checkpoint-2 (step 2" in (folder / "log-0.txt").read_text()


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_stopped_by_sigusr1_resumes_as_if_it_had_not_been(nursery, make_run, whole, ranks):
    import os

    expected, _ = uninterrupted(whole, nursery, make_run, "lora", ranks)
    folder = make_run("stopped", ranks=ranks)
    pids = nursery.start(folder, ranks=ranks)
    while not (folder / "samples-0.jsonl").exists() or len((folder / "samples-0.jsonl").read_text().splitlines()) < 3:
        time.sleep(0.01)
    os.kill(pids[-1], signal.SIGUSR1)
    codes = nursery.wait(pids)
    assert set(codes) == {75}, (folder / "log-0.txt").read_text()
    assert json.loads((folder / "out/run.json").read_text())["status"] == "interrupted"
    assert finish(nursery, folder, ranks) == expected


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_stopped_by_sigterm_in_an_evaluation_resumes_with_it(nursery, make_run, whole, ranks):
    expected, _ = uninterrupted(whole, nursery, make_run, "lora", ranks)
    folder = make_run("evaluating", ranks=ranks)
    assert set(nursery.run(folder, ranks=ranks, STOP_IN="prediction_step:1")) == {75}
    assert (folder / "out/checkpoint-6").is_dir()
    metrics = (folder / "out/metrics.jsonl").read_text()
    assert "eval_loss" not in metrics
    assert finish(nursery, folder, ranks) == expected
    assert "eval_loss" in (folder / "out/metrics.jsonl").read_text()


def test_sigterm_to_one_rank_before_the_first_step_stops_all_ranks(nursery, make_run):
    folder = make_run("early", ranks=2)
    assert nursery.run(folder, ranks=2, STOP_IN="train:1", STOP_RANK="1") == [75, 75], (
        folder / "log-0.txt"
    ).read_text()


@pytest.mark.slow
def test_a_run_with_save_only_model_can_be_resumed_from_where_it_stops(nursery, make_run, whole):
    expected, _ = uninterrupted(whole, nursery, make_run, "lora", 1)
    folder = make_run("weights", training_args={"save_only_model": True})
    assert nursery.run(folder, STOP_IN="training_step:4") == [75]
    assert not (folder / "out/checkpoint-2/run_state.json").exists()
    expected, found = dict(expected), finish(nursery, folder, 1)
    assert "out/checkpoint-4 (step 4" in (folder / "log-0.txt").read_text()
    del expected["optimizer"], found["optimizer"]  # the last checkpoint has none
    assert found == expected


def test_a_schedule_free_optimizer_saves_the_weights_that_it_evaluates(nursery, make_run):
    """They are a mean of the trained ones (Defazio et al., arXiv:2405.15682, algorithm 1)."""
    pytest.importorskip("schedulefree")
    arguments = {"optim": "schedule_free_adamw", "lr_scheduler_type": "constant", "eval_strategy": "no", "max_steps": 6}
    folder = make_run("free", "full", training_args=arguments)
    assert nursery.run(folder) == [0], (folder / "log-0.txt").read_text()
    checkpoint = folder / "out/checkpoint-6"
    trained, given = (load_file(path / "model.safetensors") for path in (checkpoint, folder / "out"))
    states = tensor_tree.load_tree(checkpoint / "optimizer.safetensors")["state"].values()
    for name, weight in given.items():
        assert (weight != trained[name]).any()
        steps = [state["z"] for state in states if state["z"].shape == weight.shape]
        assert any(torch.allclose(trained[name], 0.9 * weight + 0.1 * z, atol=1e-7) for z in steps)


@pytest.mark.slow
def test_ranks_restarted_by_their_launcher_resume_from_their_own_checkpoints(nursery, make_run, whole):
    """Not from those of an earlier run in the same folder."""
    expected, _ = uninterrupted(whole, nursery, make_run, "lora", 1)
    folder, other = make_run("again"), make_run("other")
    for each in (folder, other):
        assert nursery.run(each, "training_args.max_steps=4", SFTCORE_LAUNCH="before") == [0]
    assert nursery.run(other, SFTCORE_LAUNCH="other") == [0]
    events = (other / "events-0.txt").read_text().splitlines()
    saving = [[at for at, event in enumerate(events) if f"checkpoint-{step}.writing" in event] for step in (2, 6)]
    early, late = (within[len(within) // 2] for within in saving)
    for kill, begins in ((early, None), (late, None), (None, "out/checkpoint-4 (step 4")):
        (folder / "log-0.txt").unlink()
        code = nursery.run(folder, kill=None if kill is None else Kill(kill), SFTCORE_LAUNCH="now")
        said = (folder / "log-0.txt").read_text()
        assert code == [0 if kill is None else -signal.SIGKILL], said
        assert begins in said if begins else "resume  " not in said, said
    assert outcome(folder / "out") == expected


def test_an_output_folder_is_locked_for_one_run(nursery, make_run):
    folder = make_run("held", training_args={"max_steps": 100_000, "eval_strategy": "no", "save_strategy": "no"})
    first = nursery.start(folder)
    while not (folder / "out/metrics.jsonl").exists():
        time.sleep(0.01)
    assert nursery.run(folder, "--resume", "auto") == [2]
    assert "another run writes into out" in (folder / "log-0.txt").read_text()
    os.kill(first[0], signal.SIGTERM)
    assert nursery.wait(first) == [75]


def test_a_run_killed_at_the_end_of_an_epoch_resumes_after_its_evaluation(nursery, make_run, whole):
    """Logs and evaluation of the step come before its checkpoint."""
    expected, events = uninterrupted(whole, nursery, make_run, "lora", 1)
    (committed,) = [at for at, event in enumerate(events) if "os.rename" in event and "checkpoint-6.writing" in event]
    folder = make_run("epoch")
    assert nursery.run(folder, kill=Kill(committed + 1)) == [-signal.SIGKILL]
    assert finish(nursery, folder, 1) == expected
    assert "checkpoint-6 (step 6" in (folder / "log-0.txt").read_text()


@pytest.mark.slow
def test_nodes_without_a_shared_disk_resume_from_the_newest_checkpoint_complete_on_all(nursery, make_run):
    """Each node has checkpoints of its own."""
    folder = make_run("apart", ranks=2)
    assert set(nursery.run(folder, ranks=2, SEPARATE_DISKS="1")) == {0}, (folder / "node-0/log-0.txt").read_text()
    nodes = [folder / f"node-{rank}" for rank in (0, 1)]
    expected = [(node / "out/adapter_model.safetensors").read_bytes() for node in nodes]
    assert expected[0] == expected[1]
    metrics = outcome(nodes[0] / "out")["metrics"]
    shutil.rmtree(nodes[1] / "out/checkpoint-7")
    assert set(nursery.run(folder, "--resume", "auto", ranks=2, SEPARATE_DISKS="1")) == {0}
    assert "checkpoint-7 is skipped: (rank 1) it is not a folder" in (nodes[0] / "log-0.txt").read_text()
    assert "checkpoint-6 (step 6" in (nodes[0] / "log-0.txt").read_text()
    assert [(node / "out/adapter_model.safetensors").read_bytes() for node in nodes] == expected
    assert outcome(nodes[0] / "out")["metrics"] == metrics


def test_a_damaged_checkpoint_is_skipped(nursery, make_run, whole):
    expected, _ = uninterrupted(whole, nursery, make_run, "lora", 1)
    folder = make_run("damaged")
    assert nursery.run(folder, "training_args.max_steps=6") == [0]
    path = folder / "out/checkpoint-6/optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    codes = nursery.run(folder, "--resume", "auto")
    said = (folder / "log-0.txt").read_text()
    assert codes == [0], said
    assert "checkpoint-6 is skipped: optimizer.safetensors was changed after it was written" in said
    assert "checkpoint-4 (step 4" in said
    now = outcome(folder / "out")
    assert (now["samples"], now["last"]) == (expected["samples"], "checkpoint-7")


@pytest.fixture(scope="module")
def experts(small, tmp_path_factory):
    """A mixture of experts: transformers saves its weights under other names than the model has."""
    import torch
    from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

    folder = tmp_path_factory.mktemp("experts")
    tokenizer = AutoTokenizer.from_pretrained(small)
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_mixture_of_experts_resumes_exactly(nursery, make_run, experts):
    few = {"model": {"name_or_path": str(experts)}, "training_args": {"max_steps": 4, "eval_strategy": "no"}}
    whole = make_run("whole", "full", **few)
    assert nursery.run(whole) == [0], (whole / "log-0.txt").read_text()
    folder = make_run("experts", "full", **few)
    assert nursery.run(folder, STOP_IN="training_step:3") == [75]
    assert finish(nursery, folder, 1) == outcome(whole / "out")


@pytest.mark.slow
def test_load_best_model_at_end_is_the_same_after_a_resume(nursery, make_run):
    """Also if the evaluation that found it was interrupted."""
    best = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "max_steps": 6}
    options = {"training_args": {**best, "learning_rate": 1e-2, "save_total_limit": 1}}
    whole = make_run("whole", **options)
    assert nursery.run(whole) == [0]
    folder = make_run("best", **options)
    assert nursery.run(folder, STOP_IN="prediction_step:3") == [75]
    assert finish(nursery, folder, 1) == outcome(whole / "out")


@pytest.mark.parametrize("damage", ["changed", pytest.param("gone", marks=pytest.mark.slow)])
def test_a_best_checkpoint_that_is_damaged_or_gone_is_not_loaded(nursery, make_run, damage):
    best = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "max_steps": 6, "save_steps": 2}
    folder = make_run("best", training_args={**best, "learning_rate": 1e-2, "greater_is_better": True})
    assert nursery.run(folder, STOP_IN="training_step:5") == [75]
    if damage == "gone":
        shutil.rmtree(folder / "out/checkpoint-2")
    else:
        weights = folder / "out/checkpoint-2/adapter_model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    assert nursery.run(folder, "--resume", "auto") == [2]
    said = (folder / "log-0.txt").read_text()
    assert "checkpoint-2, cannot be loaded: " in said
    assert "resume from it with training_args.load_best_model_at_end=false" in said
    assert nursery.run(folder, "--resume", "auto", "training_args.load_best_model_at_end=false") == [0]


def test_a_run_resumes_on_another_number_of_ranks_with_the_same_rows_and_sums(nursery, make_run):
    options = {"training_args": {"eval_strategy": "no", "save_steps": 3, "max_steps": 6}, "method": "full"}
    alone = make_run("alone", **options)
    assert nursery.run(alone) == [0]
    losses = [line["loss"] for line in outcome(alone / "out")["metrics"] if "loss" in line]
    folder = make_run("more", **options)
    assert nursery.run(folder, STOP_IN="training_step:3") == [75]
    said = nursery.run(folder, "--resume", "auto", "training_args.per_device_train_batch_size=2", ranks=2)
    assert set(said) == {0}, (folder / "log-0.txt").read_text()
    assert "that run had 1 rank, this one has 2" in (folder / "log-0.txt").read_text()
    assert [line["loss"] for line in outcome(folder / "out")["metrics"] if "loss" in line] == pytest.approx(
        losses, rel=2e-3
    )


@pytest.mark.slow
def test_a_checkpoint_that_is_a_symbolic_link_is_resumed_from(nursery, make_run, whole, tmp_path):
    """As for a checkpoint that was moved to another disk."""
    expected, _ = uninterrupted(whole, nursery, make_run, "lora", 1)
    folder = make_run("linked")
    assert nursery.run(folder, STOP_IN="training_step:4") == [75]
    (folder / "out/checkpoint-4").rename(tmp_path / "elsewhere")
    (folder / "out/checkpoint-4").symlink_to(tmp_path / "elsewhere")
    assert finish(nursery, folder, 1) == expected


CHANGES = {
    "data.train_on_stop=false": "the data would not be the same",
    "method.r=2": "the method would not be the same",
}
MORE_CHANGES = {
    "training_args.per_device_train_batch_size=2": "the rows per optimizer step would not be the same",
    "seed=1": "the seed of the order of rows would not be the same (42 there, 1 here)",
    "training_args.train_sampling_strategy=sequential": "(random there, sequential here)",
    "training_args.optim=adafactor": "(adamw_torch_fused there, adafactor here)",
}


@pytest.mark.parametrize(
    "changes", [CHANGES, pytest.param(MORE_CHANGES, marks=pytest.mark.slow)], ids=["data and method", "others"]
)
def test_a_checkpoint_of_a_different_run_cannot_be_resumed_from(nursery, make_run, changes):
    folder = make_run("other", training_args={"eval_strategy": "no"})
    assert nursery.run(folder, "training_args.max_steps=2") == [0]
    for change, message in changes.items():
        assert nursery.run(folder, "--resume", "auto", change) == [2]
        assert message in (folder / "log-0.txt").read_text()


@pytest.mark.slow
def test_resuming_a_finished_run_only_finishes_it_again(nursery, make_run, whole):
    expected, _ = uninterrupted(whole, nursery, make_run, "lora", 1)
    folder = make_run("finished")
    assert nursery.run(folder) == [0]
    assert finish(nursery, folder, 1) == expected


def test_weights_of_an_earlier_run_are_moved_to_earlier(nursery, make_run):
    """An adapter beside a model would be loaded with it, and a single file in place of a model in several files."""
    folder = make_run("both", training_args={"max_steps": 1})
    assert nursery.run(folder) == [0]
    assert (folder / "out/adapter_config.json").is_file()
    assert nursery.run(folder, "method=full") == [0]
    there = {
        path.name for path in (folder / "out").glob("*") if path.suffix == ".safetensors" or "adapter" in path.name
    }
    assert there == {"model.safetensors"}
    assert next((folder / "out/earlier").glob("*/adapter_model.safetensors"))


def test_a_run_from_scratch_moves_checkpoints_of_an_earlier_run_to_earlier(nursery, make_run):
    folder = make_run("again")
    assert nursery.run(folder) == [0]
    assert nursery.run(folder, "training_args.max_steps=2") == [0]
    assert [path.name for path in (folder / "out").glob("checkpoint-*")] == ["checkpoint-2"]
    assert {path.name for path in (folder / "out/earlier").glob("*/checkpoint-*")} == {"checkpoint-6", "checkpoint-7"}
