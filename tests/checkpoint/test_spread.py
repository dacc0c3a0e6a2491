"""A run whose state is spread over ranks goes on from its checkpoints exactly, too, and reads no code from them."""

from __future__ import annotations

import json
import random
import signal

import pytest
from nursery import Death, outcome

ZERO = "package:sftcore_config/deepspeed/ds_config{}.json"
FULL, SHARDED = {"name": "fsdp"}, {"name": "fsdp", "state_dict_type": "sharded"}
BACKENDS = {
    "ddp": {"name": "torchrun"},
    "fsdp": FULL,
    "sharded": SHARDED,
    "zero-2": {"name": "deepspeed", "config": ZERO.format("")},
    "zero-3": {"name": "deepspeed", "config": ZERO.format("_zero3")},
}
QUICK = [("fsdp", "lora"), ("sharded", "full"), ("zero-2", "lora"), ("zero-3", "full")]
SLOW = [("fsdp", "full"), ("sharded", "lora"), ("zero-2", "full"), ("zero-3", "lora"), ("ddp", "full")]
SENT = {"torch.distributed.distributed_c10d"}
"""Who unpickles what another rank has sent, which is in no file."""


def said(folder):
    return "".join(path.read_text() for path in sorted(folder.glob("log-*.txt")))


def unpickled(folder):
    """Return what pickles of files named outside of torch's own reader of tensors, on all ranks."""
    noted = [json.loads(line) for path in folder.glob("pickles-*.txt") for line in path.read_text().splitlines()]
    return [note for note in noted if not any(who.rpartition(".")[0] in SENT for who in note[-1])]


@pytest.mark.parametrize(
    ("backend", "method"),
    [*QUICK, *(pytest.param(*way, marks=pytest.mark.chaos) for way in SLOW)],
)
def test_a_run_that_is_killed_while_it_saves_goes_on_exactly(nursery, life, backend, method):
    few = {"max_steps": 4, "eval_strategy": "no", "save_total_limit": None}
    options = {"ranks": 2, "backend": BACKENDS[backend], "training_args": few}
    whole = life("whole", method, **options)
    assert set(nursery.run(whole, ranks=2)) == {0}, said(whole)
    expected = outcome(whole / "out")
    assert expected["weights"]
    rank = random.randrange(2)
    events = (whole / f"events-{rank}.txt").read_text().splitlines()
    within = [at for at, event in enumerate(events) if "checkpoint-4.writing/" in event]
    folder = life("killed", method, **options)
    death = Death(random.choice(within), torn=True, rank=rank)
    assert nursery.run(folder, ranks=2, death=death)[rank] == -signal.SIGKILL, said(folder)
    assert not (folder / "out/checkpoint-4").exists()
    assert set(nursery.run(folder, "--resume", "auto", ranks=2)) == {0}, said(folder)
    assert "checkpoint-2 (step 2" in said(folder)
    assert outcome(folder / "out") == expected, (events[death.event], said(folder))
    assert unpickled(folder) == []
