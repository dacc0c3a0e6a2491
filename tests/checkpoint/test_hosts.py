"""Two hosts: two network namespaces with a virtual cable; needs root and `ip`. ``make chaos``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from tests.nursery import outcome

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

HOSTS = ("sft-a", "sft-b")


def ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


@pytest.fixture
def hosts():
    if shutil.which("ip") is None or os.geteuid():
        pytest.skip("needs root, and the command ip")
    for name in HOSTS:
        ip("netns", "del", name, check=False)
    try:
        for name in HOSTS:
            ip("netns", "add", name)
        ip("link", "add", "sft0", "netns", HOSTS[0], "type", "veth", "peer", "name", "sft0", "netns", HOSTS[1])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    for number, name in enumerate(HOSTS, start=1):
        ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "sft0")
        ip("-n", name, "link", "set", "sft0", "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield HOSTS
    for name in HOSTS:
        ip("netns", "del", name, check=False)


def start(folder, host: int, *args: str) -> subprocess.Popen[str]:
    options = {"node_rank": host, "nnodes": 2, "nproc_per_node": 1, "master_addr": "10.77.0.1", "master_port": 29533}
    command = [sys.executable, "-m", "sftcore", "run", "--config", "finetune.yaml", "--resume", "auto"]
    command += [f"backend={json.dumps({'name': 'torchrun', **options})}", *args]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "sft0", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        ["ip", "netns", "exec", HOSTS[host], *command],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_a_network_cut_between_hosts_ends_both_and_the_run_resumes(hosts, make_run, nursery):
    """Both hosts end within bounded time, and the run resumes as if it had not been cut."""
    more = {"ranks": 2, "rank_timeout": 5, "training_args": {"max_steps": 40, "save_steps": 2, "eval_strategy": "no"}}
    whole = make_run("whole", **more)
    assert set(nursery.run(whole, ranks=2)) == {0}
    expected = outcome(whole / "out")
    folder = make_run("cut", **more)
    both = [start(folder, host) for host in (0, 1)]
    while not (folder / "out/checkpoint-4").exists():
        assert all(process.poll() is None for process in both), [process.communicate()[0] for process in both]
        time.sleep(0.01)
    ip("-n", hosts[0], "link", "set", "sft0", "down")
    began = time.monotonic()
    said = [process.communicate(timeout=120)[0] for process in both]
    seconds = time.monotonic() - began
    assert not (folder / "out/model.safetensors").exists(), "cut too late"
    print(f"\nboth ended {seconds:.0f} s after the cable was cut, with {[process.returncode for process in both]}")
    assert all(process.returncode not in (0, 2) for process in both)
    assert "rank 1 has sent no heartbeat" in said[0], said[0]
    assert "has not answered for" in said[1] or "rank 0 has sent no heartbeat" in said[1], said[1]
    ip("-n", hosts[0], "link", "set", "sft0", "up")
    both = [start(folder, host) for host in (0, 1)]
    said = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "resume" in said[0]
    now = outcome(folder / "out")
    for name in ("weights", "optimizer", "metrics"):
        assert now[name] == expected[name], name
