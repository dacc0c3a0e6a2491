"""On any number of processes, a run trains the same rows in the same order, with the same losses."""

from __future__ import annotations

import json
import shutil

import pytest
from sft_process import SftProcess

from tests.nursery import BACKENDS, row_order

STEPS = 12
"""Two epochs: the last step of each has 2 rows of 4, and one rank of two none."""
WAYS = {
    "two processes": ({"name": "torchrun"}, 2, 1),
    "accumulated": ({"name": "torchrun"}, 2, 2),
    "FSDP2": ({"name": "fsdp"}, 2, 1),
    "four processes": ({"name": "torchrun"}, 4, 1),
    "FSDP2 that keeps the weights": ({"name": "fsdp", "reshard_after_forward": False}, 2, 2),
    "FSDP2 on four": ({"name": "fsdp", "state_dict_type": "sharded"}, 4, 1),
    "ZeRO-2": (BACKENDS["zero-2"], 2, 1),
    "ZeRO-3": (BACKENDS["zero-3"], 2, 1),
    "ZeRO-3, accumulated": (BACKENDS["zero-3"], 2, 2),
    "Ray": ({"name": "ray", "num_workers": 2}, 2, 1),
    "Ray with FSDP2, accumulated": ({"name": "ray", "num_workers": 2, "strategy": "fsdp"}, 2, 2),
}
TIERS = dict.fromkeys(("two processes", "FSDP2", "ZeRO-3", "Ray"), (pytest.mark.slow,))
"""Marks of the slow ways; all others are for ``make chaos``, and tests/plugins/test_backends.py has the fast ones."""


@pytest.fixture(scope="module")
def calm(small, tmp_path_factory):
    """The small model without dropout, whose random numbers differ on each rank."""
    folder = shutil.copytree(small, tmp_path_factory.mktemp("calm") / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.0}))
    return folder


def trained(nursery, make_run, calm, name, backend, ranks, accumulated, method):
    """The losses of all steps, and the rows in their order (not known of a run by Ray)."""
    arguments = {"max_steps": STEPS, "logging_steps": 1, "save_strategy": "no", "eval_strategy": "no"}
    arguments |= {
        "per_device_train_batch_size": 4 // ranks // accumulated,
        "gradient_accumulation_steps": accumulated,
        "learning_rate": 1e-2,
    }
    folder = make_run(name, method, backend=backend, model={"name_or_path": str(calm)}, training_args=arguments)
    if "Ray" in name:
        run = SftProcess(folder)
        assert run.process.wait() == 0, run.output
    else:
        assert set(nursery.run(folder, ranks=ranks)) == {0}, (folder / "log-0.txt").read_text()
    lines = [json.loads(line) for line in (folder / "out/metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line], row_order(folder / "out")


@pytest.fixture(scope="module")
def known():
    return {}


@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.chaos)])
@pytest.mark.parametrize("way", [pytest.param(way, marks=TIERS.get(way, (pytest.mark.chaos,))) for way in WAYS])
def test_torchrun_fsdp_deepspeed_and_ray_train_alike(request, nursery, make_run, calm, known, way, method):
    if way.startswith("ZeRO"):
        request.getfixturevalue("compiled_deepspeed")
    if way.startswith("Ray"):
        pytest.importorskip("ray", reason="needs the extra ray")
    method = {"name": "lora", "r": 4} if method == "lora" else method
    if str(method) not in known:
        known[str(method)] = trained(nursery, make_run, calm, "alone", "none", 1, 1, method)
    losses, rows = known[str(method)]
    assert len(losses) == STEPS
    assert len(set(rows[:22])) == len(rows) // 2 == 22, "an epoch is not all rows, each once"
    assert rows[:22] != rows[22:]
    found, order = trained(nursery, make_run, calm, way, *WAYS[way], method)
    if not way.startswith("Ray"):  # its rows are not recorded
        assert order == rows
    assert found == pytest.approx(losses, rel=1e-5)
    print(way, method, max(abs(a - b) / b for a, b in zip(found, losses, strict=True)))
