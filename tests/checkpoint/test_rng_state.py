"""Random states that are saved, restored and preserved."""

from __future__ import annotations

import json
import random

import numpy as np
import torch

from sftcore.checkpoint import rng_state


def drawn():
    return random.random(), random.gauss(0, 1), *np.random.rand(3), *torch.rand(3).tolist()


def test_rng_states_are_restored_from_json():
    random.gauss(0, 1)  # which keeps a second number for the next call
    noted = json.loads(json.dumps(rng_state.capture()))
    expected = drawn()
    assert drawn() != expected
    rng_state.restore(noted)
    assert drawn() == expected


def test_rng_states_are_preserved_whatever_is_drawn_meanwhile():
    noted = rng_state.capture()
    expected = drawn()
    rng_state.restore(noted)
    with rng_state.preserved():
        drawn()
    assert drawn() == expected


def test_random_numbers_drawn_in_an_evaluation_do_not_change_the_training(nursery, make_run):
    """The model uses random numbers in every forward pass here, also in evaluations."""
    rare = {"max_steps": 4, "save_strategy": "no", "logging_steps": 1}
    often, never = (
        make_run(strategy, "full", training_args={**rare, "eval_strategy": strategy, "eval_steps": 1})
        for strategy in ("steps", "no")
    )
    losses = []
    for folder in (often, never):
        assert nursery.run(folder, USES_RNG="1") == [0], (folder / "log-0.txt").read_text()
        lines = [json.loads(line) for line in (folder / "out/metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4
