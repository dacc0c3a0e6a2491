"""Runs by Ray Train: on a cluster of two machines, which are two of Ray's nodes on this one."""

from __future__ import annotations

import os
import secrets
import signal
import time
from pathlib import Path

import pytest
from nursery import BACKENDS, outcome
from running import Running

pytest.importorskip("ray", reason="needs the extra ray")

from sftcore_plugins.backends.ray import Ray
from sftcore_plugins.backends.ray_launcher import HERE, _scaling
from sftcore_plugins.backends.ray_worker import Desk

from sftcore import ConfigError, SftError

ENDLESS = {"max_steps": 100_000, "lr_scheduler_type": "constant", "eval_strategy": "no", "save_strategy": "no"}


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two nodes that have room for one process each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()


def trained(folder: Path) -> dict[str, object]:
    return {key: item for key, item in outcome(folder / "out").items() if key != "samples"}


def test_a_run_on_two_machines_stops_when_asked_and_goes_on_as_by_torchrun(nursery, life, cluster, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", secret := f"hf_{secrets.token_hex(17)}")  # which the cluster does not have
    options = {"ranks": 2, "training_args": ENDLESS}
    folder = life("ray", backend={"name": "ray", "num_workers": 2, "address": cluster.address}, **options)
    run = Running(folder)
    run.until("step 10/")
    ranks = run.ranks()
    assert sorted(ranks) == ["0", "1"]
    assert all(secret.encode() in Path(f"/proc/{rank}/environ").read_bytes() for rank in ranks.values())
    run.process.terminate()
    assert run.process.wait(60) == 75, run.said
    assert "the same command with --resume auto goes on" in run.said
    [stopped] = (folder / "out").glob("checkpoint-*")
    last = int(stopped.name.split("-")[1]) + 4
    further = (f"training_args.max_steps={last}", "training_args.save_strategy=steps")
    run = Running(folder, "--resume", "auto", *further)
    assert run.process.wait(120) == 0, run.said
    by_torchrun = life("torchrun", backend=BACKENDS["ddp"], **options)
    assert set(nursery.run(by_torchrun, *further, ranks=2)) == {0}
    assert trained(folder) == trained(by_torchrun)
    written = [path for path in Path(cluster.head_node.get_session_dir_path()).rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not [path for path in written if secret.encode() in path.read_bytes()]


@pytest.mark.chaos
@pytest.mark.parametrize("strategy", ["torchrun", BACKENDS["sharded"]], ids=["ddp", "sharded"])
def test_all_are_started_anew_where_one_was_killed(nursery, life, cluster, strategy):
    arguments = {"max_steps": 60, "save_steps": 10, "eval_strategy": "no", "save_total_limit": 2}
    options = {"ranks": 2, "training_args": arguments}
    ray = {"name": "ray", "num_workers": 2, "address": cluster.address, "max_failures": 1, "strategy": strategy}
    folder = life("ray", backend=ray, **options)
    run = Running(folder)
    run.until("step 20/")
    os.kill(run.ranks()["1"], signal.SIGKILL)
    assert run.process.wait(240) == 0, run.said
    assert "    resume  out/checkpoint-" in run.said
    strategy = strategy if isinstance(strategy, dict) else BACKENDS["ddp"]
    alone = life("alone", backend=strategy, **options)
    assert set(nursery.run(alone, ranks=2)) == {0}
    assert trained(folder) == trained(alone)


@pytest.mark.chaos
@pytest.mark.parametrize(("who", "ends"), [("a rank", 1), ("the launcher", 128 + signal.SIGKILL)])
def test_nobody_is_left_behind(life, cluster, who, ends):
    backend = {"name": "ray", "num_workers": 2, "address": cluster.address}
    run = Running(life(who, backend=backend, ranks=2, training_args=ENDLESS))
    run.until("step 10/")
    ranks = run.ranks()
    os.kill(ranks["0"] if who == "a rank" else run.launcher(), signal.SIGKILL)
    assert run.process.wait(60) == ends, run.said
    until = time.monotonic() + 30
    while run.ranks() and time.monotonic() < until:
        time.sleep(0.1)
    assert not run.ranks()
    if who == "a rank":
        assert "sft: error: ended: rank 0 with 137" in run.said


@pytest.mark.chaos
def test_what_the_user_can_mend_ends_with_2(life, cluster):
    backend = {"name": "ray", "num_workers": 2, "address": cluster.address, "strategy": "fsdpp"}
    run = Running(life(backend=backend))
    assert run.process.wait(60) == 2, run.said
    assert "no installed plugin offers the backend 'fsdpp'" in run.said


@pytest.mark.chaos
def test_a_run_that_waits_for_room_can_be_stopped(life, cluster):
    run = Running(life(backend={"name": "ray", "num_workers": 3, "address": cluster.address}))
    run.until("this run waits until it grows")
    run.process.terminate()
    assert run.process.wait(60) == 75, run.said
    assert "3 workers with 1 CPU each are more than the Ray cluster has: 2 CPU" in run.said


def test_a_cluster_that_is_not_there_is_told(life):
    run = Running(life(backend={"name": "ray", "num_workers": 2, "address": "127.0.0.1:1"}))
    assert run.process.wait(60) == 2, run.said
    assert "sft: error: backend.address: there is no Ray cluster at 127.0.0.1:1" in run.said
    assert "Traceback" not in run.said


CPUS, GPUS = {"CPU": 8.0}, {"CPU": 8.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("options", "there", "number", "each"),
    [
        ({}, GPUS, 4, {"GPU": 1}),
        ({"num_workers": 2}, GPUS, 2, {"GPU": 1}),
        ({"num_workers": 2, "use_gpu": False}, GPUS, 2, {"CPU": 1}),
        ({"num_workers": 2, "resources_per_worker": {"CPU": 3}}, CPUS, 2, {"CPU": 3}),
        ({"resources_per_worker": {"CPU": 2}}, GPUS, 4, {"GPU": 1, "CPU": 2}),
    ],
)
def test_workers_have_what_there_is(options, there, number, each):
    found = _scaling(Ray(**options), there, HERE)
    assert (found["num_workers"], found["resources_per_worker"], found["use_gpu"]) == (number, each, "GPU" in each)


def test_more_than_this_machine_has_is_refused():
    with pytest.raises(SftError, match="2 workers with 5 CPU each are more than the Ray cluster has: 8 CPU"):
        _scaling(Ray(num_workers=2, resources_per_worker={"CPU": 5}), CPUS, HERE)
    with pytest.raises(SftError, match="no GPU to count"):
        _scaling(Ray(), CPUS, HERE)


def test_what_ranks_ended_with_is_forgotten_when_all_are_started_anew():
    desk = Desk(["run"], "folder", {})
    assert not desk.begin()
    desk.end(1, 137)
    assert desk.look(None) == (True, [], {1: 137})
    assert desk.begin()
    assert desk.look(None) == (True, [], {})


@pytest.mark.parametrize("strategy", ["ray", "none", {"state_dict_type": "sharded"}])
def test_a_strategy_trains_on_several_processes(strategy):
    with pytest.raises(ConfigError, match="strategy must be a backend that trains on several processes"):
        Ray(strategy=strategy)


def test_a_cluster_is_used_from_within():
    with pytest.raises(ConfigError, match="address must be one within the cluster"):
        Ray(address="ray://host:10001")


def test_ranks_are_told_what_they_train_with():
    command = Ray(num_workers=2, strategy={"name": "fsdp", "state_dict_type": "sharded"}).command(["run", "a=1"])
    assert command[1:] == [
        "-m",
        "sftcore_plugins.backends.ray_launcher",
        '{"num_workers": 2}',
        "run",
        "a=1",
        'backend={"name": "fsdp", "state_dict_type": "sharded"}',
    ]
    with pytest.raises(SftError, match="name the one that they train with"):
        Ray().start({}, cpu=True)
