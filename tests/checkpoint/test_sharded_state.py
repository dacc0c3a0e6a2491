"""A run whose state is sharded over ranks resumes from its checkpoints exactly, too, and reads no code from them."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from sftcore.checkpoint.tensor_tree import load_tree
from tests.nursery import BACKENDS, Kill, outcome
from tests.sizes import generator

FAST = [("fsdp", "lora")]
SLOW = [("zero-3", "full"), ("sharded", "full"), ("zero-2", "lora")]
CHAOS = [("fsdp", "full"), ("sharded", "lora"), ("zero-2", "full"), ("zero-3", "lora"), ("ddp", "full")]
SENT = {"torch.distributed.distributed_c10d"}
"""Modules that unpickle messages of other ranks, which are not files."""


def said(folder):
    return "".join(path.read_text() for path in sorted(folder.glob("log-*.txt")))


def unpickled(folder):
    """Classes that pickles in files named to readers other than torch's own for tensors, on all ranks."""
    noted = [json.loads(line) for path in folder.glob("pickles-*.txt") for line in path.read_text().splitlines()]
    return [note for note in noted if not any(who.rpartition(".")[0] in SENT for who in note[-1])]


@pytest.mark.parametrize(
    ("backend", "method"),
    [
        *FAST,
        *(pytest.param(*way, marks=pytest.mark.slow) for way in SLOW),
        *(pytest.param(*way, marks=pytest.mark.chaos) for way in CHAOS),
    ],
)
def test_an_fsdp_or_deepspeed_run_killed_while_saving_resumes_exactly(request, nursery, make_run, backend, method):
    if backend.startswith("zero"):
        request.getfixturevalue("compiled_deepspeed")
    few = {"max_steps": 4, "eval_strategy": "no", "save_total_limit": None}
    options = {"ranks": 2, "backend": BACKENDS[backend], "training_args": few}
    whole = make_run("whole", method, **options)
    assert set(nursery.run(whole, ranks=2)) == {0}, said(whole)
    expected = outcome(whole / "out")
    assert expected["weights"]
    chance = generator(f"kill {backend} {method}")
    rank = chance.randrange(2)
    events = (whole / f"events-{rank}.txt").read_text().splitlines()
    within = [at for at, event in enumerate(events) if "checkpoint-4.writing/" in event]
    within = within if rank == 0 else within[:-1]  # killed at the next; rank 1 has no more while rank 0 commits
    folder = make_run("killed", method, **options)
    kill = Kill(chance.choice(within), torn=True, rank=rank)
    assert nursery.run(folder, ranks=2, kill=kill)[rank] == -signal.SIGKILL, said(folder)
    assert not (folder / "out/checkpoint-4").exists()
    assert set(nursery.run(folder, "--resume", "auto", ranks=2)) == {0}, said(folder)
    assert "checkpoint-2 (step 2" in said(folder)
    assert outcome(folder / "out") == expected, (events[kill.event], said(folder))
    assert unpickled(folder) == []
    if backend == "sharded" and method == "full":  # otherwise each rank would have had all weights
        parts = [load_tree(whole / f"out/checkpoint-4/optimizer_{rank}.safetensors")["weights"] for rank in range(2)]
        model = load_file(whole / "out/model.safetensors")
        assert sum(weight.numel() for part in parts for weight in part.values()) == sum(
            weight.numel() for weight in model.values()
        )


@pytest.mark.parametrize(
    ("backend", "ranks", "message"),
    [
        ("ddp", 2, "the layout of its state would not be the same (by the names of weights there, whole here)"),
        pytest.param("sharded", 2, "(by the names of weights there, sharded over 2 here)", marks=pytest.mark.slow),
        pytest.param("zero-2", 2, "(by the names of weights there, ZeRO-2 over 2 here)", marks=pytest.mark.chaos),
        pytest.param("fsdp", 4, None, marks=pytest.mark.chaos),
    ],
)
def test_a_run_resumes_only_from_a_state_layout_that_it_can_read(nursery, make_run, backend, ranks, message):
    few = {"max_steps": 4, "eval_strategy": "no"}
    first = make_run("first", "full", ranks=2, backend=BACKENDS["fsdp"], training_args=few)
    assert set(nursery.run(first, "training_args.max_steps=2", ranks=2)) == {0}, said(first)
    second = make_run("second", "full", ranks=ranks, backend=BACKENDS[backend], training_args=few)
    (first / "out").rename(second / "out")
    codes = nursery.run(second, "--resume", "auto", ranks=ranks)
    assert set(codes) == {2 if message else 0}, said(second)
    assert (message or "that run had 2 ranks, this one has 4") in said(second)


@pytest.mark.chaos
@pytest.mark.parametrize("backend", ["fsdp", "sharded", "zero-3"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_load_best_model_at_end_works_with_sharded_weights(nursery, make_run, backend, method):
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2, "save_total_limit": None}
    best |= {"metric_for_best_model": "eval_loss", "greater_is_better": True}  # which it was at step 2
    ddp = make_run("ddp", method, ranks=2, training_args=best)
    assert set(nursery.run(ddp, ranks=2)) == {0}, said(ddp)
    folder = make_run("best", method, ranks=2, backend=BACKENDS[backend], training_args=best)
    assert set(nursery.run(folder, ranks=2)) == {0}, said(folder)
    (name,) = [path.name for path in (ddp / "out").glob("*model.safetensors")]
    expected, last = load_file(ddp / "out/checkpoint-2" / name), load_file(ddp / "out/checkpoint-6" / name)
    found = load_file(folder / "out" / name)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[key], expected[key], atol=1e-6) for key in found)
    assert not all(torch.allclose(found[key], last[key], atol=1e-6) for key in found)
