"""Runs by Ray Train: on a cluster of two machines, which are two of Ray's nodes on this one."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sft_process import SftProcess

from tests.nursery import BACKENDS, outcome

pytest.importorskip("ray", reason="needs the extra ray")

from sftcore_plugins.backends.ray import Ray
from sftcore_plugins.backends.ray_launcher import _environ, _exit_code, _scaling
from sftcore_plugins.backends.ray_worker import Mailbox

from sftcore import ConfigError, SftError

JOBS = "import ray, sys; ray.init(sys.argv[1]); from ray._private.state import jobs; print(jobs())"
"""Shows what Ray's dashboard knows of programs."""

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


@pytest.mark.slow
def test_a_ray_run_on_two_nodes_stops_on_sigterm_and_resumes_like_torchrun(nursery, make_run, cluster, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", secret := f"hf_{secrets.token_hex(17)}")  # which the cluster does not have
    options = {"ranks": 2, "training_args": ENDLESS}
    folder = make_run("ray", backend={"name": "ray", "num_workers": 2, "address": cluster.address}, **options)
    run = SftProcess(folder, f"training_args.run_name={secret}")
    run.wait_for("step 10/")
    ranks = run.ranks()
    assert sorted(ranks) == ["0", "1"]
    assert all(secret.encode() in Path(f"/proc/{rank}/environ").read_bytes() for rank in ranks.values())
    run.process.terminate()
    assert run.process.wait() == 75, run.output
    assert "resume with the same command and --resume auto" in run.output
    [stopped] = (folder / "out").glob("checkpoint-*")
    last = int(stopped.name.split("-")[1]) + 4
    further = (f"training_args.max_steps={last}", "training_args.save_strategy=steps")
    run = SftProcess(folder, "--resume", "auto", *further)
    assert run.process.wait() == 0, run.output
    by_torchrun = make_run("torchrun", backend=BACKENDS["ddp"], **options)
    assert set(nursery.run(by_torchrun, *further, ranks=2)) == {0}
    assert trained(folder) == trained(by_torchrun)
    written = [path for path in Path(cluster.head_node.get_session_dir_path()).rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not [path for path in written if secret.encode() in path.read_bytes()]
    jobs = subprocess.run([sys.executable, "-c", JOBS, cluster.address], capture_output=True, text=True, check=True)
    assert "ray_launcher" in jobs.stdout
    assert secret not in jobs.stdout


@pytest.mark.chaos
@pytest.mark.parametrize("strategy", ["torchrun", BACKENDS["sharded"]], ids=["ddp", "sharded"])
def test_ray_restarts_all_ranks_after_one_was_killed_and_they_resume(nursery, make_run, cluster, strategy):
    saved = {**ENDLESS, "save_strategy": "steps", "save_steps": 10, "save_total_limit": 2}
    ray = {"name": "ray", "num_workers": 2, "address": cluster.address, "max_failures": 1, "strategy": strategy}
    folder = make_run("ray", backend=ray, ranks=2, training_args=saved)
    SftProcess(folder).check_restart_after_kill("step 20/")
    last = max(int(path.name.split("-")[1]) for path in (folder / "out").glob("checkpoint-*"))
    itself = strategy if isinstance(strategy, dict) else BACKENDS["ddp"]
    alone = make_run("alone", backend=itself, ranks=2, training_args=saved)
    whole = (f"training_args.max_steps={last}", f"training_args.save_steps={last}")
    assert set(nursery.run(alone, *whole, ranks=2)) == {0}
    names = [path.name for path in (alone / f"out/checkpoint-{last}").glob("*model*.safetensors")]
    names += [path.name for path in (alone / f"out/checkpoint-{last}").glob("optimizer*.safetensors")]
    assert names
    for name in names:
        first, second = (path / f"out/checkpoint-{last}" / name for path in (folder, alone))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.chaos
@pytest.mark.parametrize(("who", "ends"), [("a rank", 1), ("the launcher", 128 + signal.SIGKILL)])
def test_no_ray_rank_outlives_a_killed_rank_or_launcher(make_run, cluster, who, ends):
    backend = {"name": "ray", "num_workers": 2, "address": cluster.address}
    run = SftProcess(make_run(who, backend=backend, ranks=2, training_args=ENDLESS))
    run.wait_for("step 10/")
    ranks = run.ranks()
    os.kill(ranks["0"] if who == "a rank" else run.launcher(), signal.SIGKILL)
    assert run.process.wait() == ends, run.output
    while run.ranks():  # or the test's time is over
        time.sleep(0.1)
    if who == "a rank":
        assert "sft: error: ended: rank 0 with exit code 137" in run.output


@pytest.mark.chaos
def test_a_user_error_under_ray_exits_with_2_without_a_retry(make_run, cluster):
    """And is not tried again, however often that may be."""
    backend = {"name": "ray", "num_workers": 2, "address": cluster.address, "strategy": "fsdpp", "max_failures": -1}
    run = SftProcess(make_run(backend=backend))
    assert run.process.wait() == 2, run.output
    assert "no installed plugin offers the backend 'fsdpp'" in run.output


@pytest.mark.chaos
def test_a_ray_run_that_waits_for_resources_can_be_stopped(make_run, cluster):
    run = SftProcess(make_run(backend={"name": "ray", "num_workers": 3, "address": cluster.address}))
    run.wait_for("this run waits until it grows")
    run.process.terminate()
    assert run.process.wait() == 75, run.output
    assert "3 workers with 1 CPU each exceed the Ray cluster, which has 2" in run.output


@pytest.mark.slow
def test_a_missing_ray_cluster_is_reported(make_run):
    run = SftProcess(make_run(backend={"name": "ray", "num_workers": 2, "address": "127.0.0.1:1"}))
    assert run.process.wait() == 2, run.output
    assert "sft: error: backend.address: cannot connect to a Ray cluster at 127.0.0.1:1" in run.output
    assert "Traceback" not in run.output


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
def test_ray_workers_get_the_gpus_or_cpus_of_the_cluster(options, there, number, each):
    found = _scaling(Ray(**options), there)
    assert (found["num_workers"], found["resources_per_worker"], found["use_gpu"]) == (number, each, "GPU" in each)


def test_more_ray_workers_than_the_machine_has_resources_are_an_error():
    with pytest.raises(SftError, match="2 workers with 5 CPU each exceed the Ray cluster, which has 8"):
        _scaling(Ray(num_workers=2, resources_per_worker={"CPU": 5}), CPUS)
    with pytest.raises(SftError, match="no GPU to count"):
        _scaling(Ray(), CPUS)


def test_ray_restarts_ranks_unless_the_user_has_to_fix_something():
    mailbox = Mailbox(["run"], "folder", {})
    assert mailbox.begin_attempt()
    mailbox.set_exit_code(1, 137)
    assert mailbox.exchange(None)[1:] == ([], {1: 137})
    assert mailbox.begin_attempt()
    assert mailbox.exchange(None)[1:] == ([], {})
    mailbox.set_exit_code(0, 2)
    assert not mailbox.begin_attempt()
    assert mailbox.exchange(None)[1:] == ([], {0: 2})


def test_a_mailbox_knows_when_a_ray_worker_last_polled():
    mailbox = Mailbox(["run"], "folder", {})
    assert mailbox.exchange("SIGTERM")[0] > 1
    assert mailbox.stop_reason() == "SIGTERM"
    assert mailbox.exchange("SIGTERM")[0] < 1


@pytest.mark.parametrize(
    ("codes", "problem", "code"),
    [
        ({0: 0, 1: 0}, [], 0),
        ({0: 75, 1: 75}, [], 75),
        ({0: 1, 1: 2}, [RuntimeError()], 2),
        ({0: 2}, [], 2),
        ({0: 137}, [RuntimeError()], 1),
        ({}, [RuntimeError("no")], 1),
    ],
)
def test_a_ray_run_exits_with_the_code_of_its_ranks(codes, problem, code):
    assert _exit_code(codes, problem) == code


def test_ray_ranks_see_only_their_own_gpus_and_variables(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("MINE", "1")
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "x")
    assert _environ(Ray(), False)["CUDA_VISIBLE_DEVICES"] == ""
    found = _environ(Ray(env_vars=["MINE"]), True)
    assert found["MINE"] == "1"
    assert found["PYTORCH_ALLOC_CONF"] == "x"
    assert "CUDA_VISIBLE_DEVICES" not in found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": 0}, "num_workers must be"),
        ({"max_failures": -2}, "max_failures must be"),
        ({"address": ""}, "address must be"),
        ({"address": "ray://host:10001"}, "address must be one within the cluster"),
        ({"resources_per_worker": {"GPU": 0.5}}, "must not name GPUs"),
        ({"strategy": "ray"}, "strategy must name a backend that trains on several processes"),
        ({"strategy": "none"}, "strategy must name"),
        ({"strategy": {"state_dict_type": "sharded"}}, "strategy must name"),
    ],
)
def test_invalid_ray_options_are_rejected(options, message):
    with pytest.raises(ConfigError, match=message):
        Ray(**options)


def test_a_ray_address_of_the_environment_is_checked_too(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://host:8265")
    with pytest.raises(ConfigError, match="address must be one within the cluster"):
        Ray()


def test_a_configured_ray_address_overrides_the_environment(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://host:8265")  # as for `ray job submit`
    assert '{"num_workers": 2, "address": "auto"}' in Ray(num_workers=2, address="auto").command(["run"])


def test_ray_passes_the_strategy_to_its_ranks():
    command = Ray(num_workers=2, strategy={"name": "fsdp", "state_dict_type": "sharded"}).command(["run", "a=1"])
    assert command[1:] == [
        "-m",
        "sftcore_plugins.backends.ray_launcher",
        '{"num_workers": 2}',
        "run",
        "a=1",
        'backend={"name": "fsdp", "state_dict_type": "sharded"}',
    ]
    with pytest.raises(SftError, match="set the backend that they train with"):
        Ray().start({}, cpu=True)
