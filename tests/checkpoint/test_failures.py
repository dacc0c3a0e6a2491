"""Failures of disks, processes and numbers: the run ends with a clear message, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest
import torch
from sft_process import SftProcess

from sftcore.checkpoint.store import CheckpointStore
from tests.nursery import BACKENDS, outcome


def log(folder, rank=0):
    return (folder / f"log-{rank}.txt").read_text()


@pytest.fixture
def tmpfs(tmp_path):
    """Mount a small disk at a folder; needs root."""
    mounted = []

    def mount(folder, size):
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.fixture(scope="module")
def expected():
    return {}


def whole(expected, nursery, make_run):
    if not expected:
        folder = make_run("whole")
        assert nursery.run(folder) == [0], log(folder)
        checkpoint = sum(path.stat().st_size for path in (folder / "out/checkpoint-7").iterdir())
        expected |= {"outcome": outcome(folder / "out"), "checkpoint": checkpoint}
    return expected["outcome"], expected["checkpoint"]


@pytest.mark.parametrize("part", [1.4, *(pytest.param(part, marks=pytest.mark.slow) for part in (0.3, 2.9))])
def test_a_full_disk_ends_the_run_with_complete_checkpoints_and_it_resumes(nursery, make_run, expected, tmpfs, part):
    """It ends with a message, earlier checkpoints are complete, and with more space the run resumes exactly."""
    as_it_should, size = whole(expected, nursery, make_run)
    folder = make_run("full")
    tmpfs(folder / "out", int(size * part))
    codes = nursery.run(folder)
    assert codes == [2], log(folder)
    assert "No space left on device" in log(folder) or "is full" in log(folder)
    assert "Traceback" not in log(folder)
    assert not [found.problem for found in CheckpointStore(folder / "out").checkpoints() if found.problem]
    subprocess.run(["mount", "-o", "remount,size=100m", str(folder / "out")], check=True)
    assert nursery.run(folder, "--resume", "auto") == [0], log(folder)
    assert outcome(folder / "out") == as_it_should


@pytest.mark.slow
def test_a_deepspeed_checkpoint_that_one_rank_cannot_write_ends_all_ranks(compiled_deepspeed, nursery, make_run):
    """The other rank waits in DeepSpeed, where it cannot be message."""
    few = {"max_steps": 4, "eval_strategy": "no"}
    folder = make_run("part", "full", ranks=2, backend=BACKENDS["zero-2"], training_args=few)
    began = time.monotonic()
    codes = nursery.run(folder, ranks=2, LARGEST_FILE="30000")
    assert codes == [1, 2], (log(folder, 0), log(folder, 1))
    assert "the checkpoint of step 2 cannot be written to out: " in log(folder, 1)
    assert "another rank has ended" in log(folder)
    assert time.monotonic() - began < 100
    assert set(nursery.run(folder, "--resume", "auto", ranks=2)) == {0}, log(folder)


@pytest.mark.slow
def test_ranks_restarted_by_torchrun_resume(make_run):
    endless = {"max_steps": 100_000, "lr_scheduler_type": "constant", "eval_strategy": "no", "save_steps": 20}
    backend = {"name": "torchrun", "nproc_per_node": 2, "max_restarts": 1}
    SftProcess(make_run("restarted", ranks=2, backend=backend, training_args=endless)).check_restart_after_kill(
        "step 40/"
    )


@pytest.mark.slow
def test_a_folder_that_becomes_read_only_ends_the_run_with_complete_checkpoints(nursery, make_run, tmpfs):
    folder = make_run("sealed", training_args={"max_steps": 200})
    tmpfs(folder / "out", "100m")
    pids = nursery.start(folder)
    while not (folder / "out/checkpoint-2").exists():
        time.sleep(0.005)
    for options in (["--bind", str(folder / "out")], ["-o", "remount,ro,bind"]):
        subprocess.run(["mount", *options, str(folder / "out")], check=True)
    codes = nursery.wait(pids)
    subprocess.run(["umount", str(folder / "out")], check=True)
    assert codes == [2], log(folder)
    assert not [found.problem for found in CheckpointStore(folder / "out").checkpoints() if found.problem]
    assert "Traceback" not in log(folder)
    assert "Read-only file system" in log(folder)


def test_the_watchdog_names_a_rank_without_a_heartbeat(nursery, make_run):
    folder = make_run("frozen", ranks=2, rank_timeout=4)
    pids = nursery.start(folder, ranks=2)
    while not (folder / "out/checkpoint-2").exists():
        time.sleep(0.01)
    os.kill(pids[1], signal.SIGSTOP)
    began = time.monotonic()
    assert nursery.wait(pids[:1]) == [1], log(folder)
    assert time.monotonic() - began < 60
    os.kill(pids[1], signal.SIGKILL)
    nursery.wait(pids[1:])
    assert "rank 1 has sent no heartbeat for" in log(folder)
    assert "it was " in log(folder)
    record = json.loads((folder / "out/run.json").read_text())
    assert (record["status"], "rank 1" in record["error"]) == ("failed", True)


@pytest.fixture(scope="module")
def poisoned(small, tmp_path_factory):
    """A model for which the letter Z is not a number, and rows of which three have it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("poisoned")
    tokenizer = AutoTokenizer.from_pretrained(small)
    model = AutoModelForCausalLM.from_pretrained(small)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("Z")] = torch.nan
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rows = []
    for number in range(16):
        question = f"Z{number}" if number in (3, 9, 12) else f"{number}"
        rows.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "1"}]})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def poisoned_life(make_run, poisoned, name, **non_finite):
    order = {
        "train_sampling_strategy": "sequential",
        "max_steps": 8,
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
    }
    return make_run(
        name,
        "full",
        model={"name_or_path": str(poisoned)},
        data={"train": str(poisoned / "rows.jsonl"), "workers": 1},
        non_finite=non_finite,
        training_args={**order, "eval_strategy": "no"},
    )


def test_non_finite_steps_are_skipped_and_their_rows_named(nursery, make_run, poisoned):
    folder = poisoned_life(make_run, poisoned, "skip", action="skip")
    assert nursery.run(folder) == [0], log(folder)
    lines = [line for line in log(folder).splitlines() if "is skipped" in line]
    assert [line.split("(rows ")[1].split(")")[0].replace(f"{poisoned}/", "") for line in lines] == [
        "rows.jsonl:3, rows.jsonl:4",
        "rows.jsonl:9, rows.jsonl:10",
        "rows.jsonl:13, rows.jsonl:14",
    ]
    metrics = [json.loads(line) for line in (folder / "out/metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] == "nan" for line in metrics if "loss" in line] == [
        number in (2, 5, 7) for number in range(1, 9)
    ]
    assert metrics[-1]["skipped_steps"] == 3
    from safetensors.torch import load_file

    weights = load_file(folder / "out/model.safetensors")
    assert all(weight.isfinite().all() for name, weight in weights.items() if "embed_tokens" not in name)


def test_non_finite_steps_in_a_row_end_the_run_after_patience(nursery, make_run, poisoned):
    folder = poisoned_life(make_run, poisoned, "stop", patience=1)
    assert nursery.run(folder) == [2]
    assert "the loss or the gradient of step 2 is not finite" in log(folder)
    assert "Traceback" not in log(folder)
    folder = poisoned_life(make_run, poisoned, "tolerated", patience=2)
    assert nursery.run(folder) == [0], "no two are next to each other"


def test_out_of_memory_is_explained(sft, monkeypatch):
    from sftcore.training.trainer import SftTrainer

    before = SftTrainer.training_step

    def hungry(self, *args, **kwargs):
        before(self, *args, **kwargs)
        torch.empty(2**50)

    monkeypatch.setattr(SftTrainer, "training_step", hungry)
    done = sft.run_here()
    assert done.code == 2
    assert "out of memory with a batch of 4 rows of " in done.said
    assert "the peak was " in done.said
    assert "per_device_train_batch_size=2 with gradient_accumulation_steps=2, which trains the same" in done.said
    assert sft.record()["status"] == "failed"
