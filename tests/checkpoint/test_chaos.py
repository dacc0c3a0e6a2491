"""Runs killed at every file event of saving and at random moments, or asked to stop; ``make chaos``.

``SFTCORE_KILLS``, ``SFTCORE_SPREAD_KILLS``, ``SFTCORE_STOPS`` and ``SFTCORE_GROUP_STOPS`` set the numbers of random
kills and stops.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sft_process import SftProcess

from tests.nursery import BACKENDS, Kill, Nursery, outcome
from tests.sizes import generator

KILLS, STOPS = int(os.environ.get("SFTCORE_KILLS", "60")), int(os.environ.get("SFTCORE_STOPS", "20"))
GROUP_STOPS = int(os.environ.get("SFTCORE_GROUP_STOPS", "60"))
SPREAD_KILLS = int(os.environ.get("SFTCORE_SPREAD_KILLS", "20"))
WAYS = [(method, ranks) for method in ("full", "lora") for ranks in (1, 2)]
SPREAD = [("full", "fsdp"), ("lora", "sharded"), ("full", "zero-2"), ("lora", "zero-3")]

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(0)]


def said(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("log-*.txt")))


def whole(nursery: Nursery, folder: Path, ranks: int):
    """Run without interruption; the outcome, the events of each rank, and the seconds it took."""
    began = time.monotonic()
    assert set(nursery.run(folder, ranks=ranks)) == {0}, said(folder)
    seconds = time.monotonic() - began
    events = [(folder / f"events-{rank}.txt").read_text().splitlines() for rank in range(ranks)]
    return outcome(folder / "out"), events, seconds


@pytest.mark.parametrize(("method", "ranks"), WAYS)
def test_sigkill_at_every_file_event_resumes_exactly(nursery, make_run, method, ranks):
    """Before each event, and after half of each file was written; on each rank."""
    short = {"max_steps": 3, "eval_strategy": "no", "save_total_limit": 1}
    expected, events, _ = whole(nursery, make_run("whole", method, ranks=ranks, training_args=short), ranks)
    kills = [
        Kill(at, torn, rank)
        for rank in range(ranks)
        for at, event in enumerate(events[rank])
        for torn in (False, True)
        if not torn or event.split()[1] in ("open", "safetensors")
    ]
    behind = 0
    for number, kill in enumerate(kills):
        folder = make_run(f"{number}", method, ranks=ranks, training_args=short)
        codes = nursery.run(folder, ranks=ranks, kill=kill)
        # some events at the end come after the other rank has exited
        assert codes[kill.rank] == -signal.SIGKILL, (kill, codes, said(folder))
        there = [int(path.name.split("-")[1]) for path in (folder / "out").glob("checkpoint-*[0-9]")]
        codes = nursery.run(folder, "--resume", "auto", ranks=ranks)
        assert set(codes) == {0}, (kill, events[kill.rank][kill.event], said(folder))
        assert outcome(folder / "out") == expected, (kill, events[kill.rank][kill.event], said(folder))
        log = (folder / "log-0.txt").read_text()
        if there:
            behind += f"checkpoint-{max(there)} (step" not in log
        shutil.rmtree(folder)
    print(f"\n{method} on {ranks}: {len(kills)} kills; {behind} resumed from an older checkpoint than the newest")
    assert not behind, "a committed checkpoint was lost"


@pytest.mark.parametrize(("method", "ranks"), WAYS)
def test_random_sigkills_resume_exactly(nursery, make_run, method, ranks):
    killed_at_random(nursery, lambda name: make_run(name, method, ranks=ranks), ranks, KILLS // len(WAYS))


@pytest.mark.parametrize(("method", "backend"), SPREAD)
def test_random_sigkills_of_fsdp_and_deepspeed_resume_exactly(compiled_deepspeed, nursery, make_run, method, backend):
    few = {"max_steps": 5, "eval_strategy": "no"}
    options = {"ranks": 2, "backend": BACKENDS[backend], "training_args": few}
    killed_at_random(nursery, lambda name: make_run(name, method, **options), 2, SPREAD_KILLS)


def killed_at_random(nursery: Nursery, make_run: Callable[[str], Path], ranks: int, wanted: int) -> None:
    """Kill runs at random moments of their whole life, and resume them, until each has finished."""
    expected, _, seconds = whole(nursery, make_run("whole"), ranks)
    chance, kills, runs, lost = generator(f"kills {wanted}"), 0, 0, 0
    while kills < wanted:
        folder = make_run(f"{runs}")
        runs += 1
        ended, before = False, 0
        while not ended:
            pids = nursery.start(folder, "--resume", "auto", ranks=ranks)
            time.sleep(chance.uniform(0.2, 1.1) * seconds)
            os.kill(pids[chance.randrange(ranks)], signal.SIGKILL)
            codes = nursery.wait(pids)
            ended = set(codes) == {0}
            kills += not ended
            now = [int(path.name.split("-")[1]) for path in (folder / "out").glob("checkpoint-*[0-9]")]
            lost += max(now, default=0) < before
            before = max(now, default=0)
            assert not ended or outcome(folder / "out") == expected, said(folder)
        shutil.rmtree(folder)
    print(f"\n{kills} kills in {runs} runs")
    assert not lost


@pytest.mark.parametrize("ranks", [1, 2])
def test_sigterm_at_random_moments_resumes_exactly(nursery, make_run, ranks):
    expected, _, seconds = whole(nursery, make_run("whole", ranks=ranks), ranks)
    chance, stops = generator(f"stops {ranks}"), 0
    for number in range(STOPS):
        folder = make_run(f"{number}", ranks=ranks)
        pids = nursery.start(folder, ranks=ranks)
        time.sleep(chance.uniform(0.05, 1.0) * seconds)
        for pid in pids:  # like launchers and schedulers
            os.kill(pid, signal.SIGTERM)
        codes = set(nursery.wait(pids))
        assert codes in ({75}, {0}), (codes, said(folder))
        stops += codes == {75}
        codes = nursery.run(folder, "--resume", "auto", ranks=ranks)
        assert set(codes) == {0}, said(folder)
        assert outcome(folder / "out") == expected, said(folder)
        shutil.rmtree(folder)
    print(f"\n{ranks}: {stops} stopped with 75, {STOPS - stops} had finished")
    assert stops >= STOPS * 0.5


IN_PROCESSES = {
    "data workers": {"training_args": {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}},
    "a stream": {"data": {"streaming": True, "workers": 2}, "training_args": {"eval_strategy": "no"}},
    "trackers": {"trackers": ["tensorboard"], "training_args": {"dataloader_num_workers": 1}},
    "ranks": {"ranks": 2, "backend": {"name": "torchrun", "nproc_per_node": 2}},
}
"""Runs that consist of several processes."""


def test_a_signal_to_all_processes_at_random_moments_ends_with_a_checkpoint(small, make_run):
    """As of systemd, scancel and ``kill -- -GROUP``; from the first line that a run prints to its end."""
    chance, ends = generator("group stops"), []
    for number in range(GROUP_STOPS):
        name = [*IN_PROCESSES][number % len(IN_PROCESSES)]
        options = IN_PROCESSES[name]
        steps = 40 if number % 10 == 9 else 100_000  # some runs end by themselves
        arguments = {"max_steps": steps, "save_steps": 20, **options.get("training_args", {})}
        data = {"train": str(small / "rows.jsonl"), "eval": str(small / "eval.jsonl"), **options.get("data", {})}
        if "data" in options:
            del data["eval"]
        folder = make_run(f"{number}", **{**options, "training_args": arguments, "data": data})
        run = SftProcess(folder)
        run.wait_for("config")
        time.sleep(chance.uniform(0, 12 * options.get("ranks", 1)))  # ranks take longer to start
        processes = run.signal_all(signal.SIGTERM)
        code, output = run.process.wait(60), run.output
        complete = sorted(path.parent.name for path in (folder / "out").glob("checkpoint-*/manifest.json"))
        ends.append((name, code, processes, complete))
        print(ends[-1])
        assert "Traceback" not in output, output
        assert code in (0, 75), output
        assert complete or "train  step" not in output, output
        shutil.rmtree(folder)
    stopped = [end for end in ends if end[1] == 75]
    print(f"{len(stopped)} stopped with 75, {sum(bool(end[3]) for end in stopped)} of them with a checkpoint")
    assert len(stopped) >= GROUP_STOPS * 0.8
