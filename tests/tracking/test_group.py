"""Trackers that fail or hang do not affect the run. Each is a real one, in its process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from sftcore.runtime.signals import REPEAT_SECONDS
from sftcore.tracking import group as module
from sftcore.tracking.group import TrackerGroup
from sftcore.tracking.process import MetricsReader, parse_error

ODD = '''
import json, os, random, sys, time
from dataclasses import dataclass, field
from pathlib import Path

from sftcore import Tracker, hookimpl


@hookimpl
def register_trackers():
    return {"note": "odd_trackers:Note"}


@dataclass
class Note(Tracker):
    """Writes its calls to a file, and misbehaves in one of them as configured."""

    file: Path
    doing: str = ""
    at: str = "log"
    tags: list[str] = field(default_factory=list)

    def _note(self, call, *args):
        with self.file.open("a") as file:
            file.write(json.dumps([call, *args]) + "\\n")
        if call == self.at:
            if self.doing == "raise":
                raise ConnectionError("no answer, token=abcdef123456")
            if self.doing == "hang":
                time.sleep(100)
            if self.doing == "exit":
                os._exit(7)
            if self.doing == "spin":
                while True:
                    pass
            if self.doing == "print":
                for _ in range(5000):
                    print("x" * 100)
            if self.doing == "seed":
                import numpy, torch
                random.seed(0), numpy.random.seed(0), torch.manual_seed(0)

    def start(self, run):
        print(f"see http://host/{run['id']}")
        self._note("start", run["id"], sys.argv, self.tags, os.getpid(), os.getppid())

    def log(self, metrics, step):
        self._note("log", metrics, step)

    def finish(self, error=None):
        self._note("finish", None if error is None else [type(error).__name__, str(error)])
'''


@pytest.fixture(scope="module", autouse=True)
def odd(tmp_path_factory):
    """The module ``odd_trackers``, installed as a plugin where every process finds it."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "odd_trackers.py").write_text(ODD)
    info = folder / "odd_trackers-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-trackers\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[sftcore]\nodd = odd_trackers\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import odd_trackers

        yield odd_trackers
    del sys.modules["odd_trackers"]


RUN = {"id": "abc", "name": "n", "command": ["run", "x=1"], "config": {}, "versions": {}}


def write(folder, *steps):
    with (folder / "metrics.jsonl").open("a") as file:
        for step in steps:
            file.write(json.dumps({"step": step, "time": 1.0, "loss": step / 3, "odd": "nan"}) + "\n")


def notes(file):
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def group_of(odd, folder, **options):
    return TrackerGroup([("note", odd.Note(folder / "notes", **options))], folder)


def test_a_tracker_gets_every_metric_and_how_the_run_ended(odd, tmp_path, capsys):
    write(tmp_path, 1)
    group = group_of(odd, tmp_path, tags=["t"])
    group.start(RUN)
    write(tmp_path, 2)
    until(lambda: len(notes(tmp_path / "notes")) == 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss"')
        file.flush()
        time.sleep(0.7)  # an incomplete line is read, and waits
        file.write(": 1.5}\n")
    write(tmp_path, 4)
    assert group.finish("ZeroDivisionError: division by zero") == []
    started, *logged, finished = notes(tmp_path / "notes")
    assert started[:4] == ["start", "abc", ["sftcore", "run", "x=1"], ["t"]]
    assert started[5] == os.getpid() != started[4]
    assert [line[2] for line in logged] == [2, 3, 4]
    assert logged[0][1]["loss"] == 2 / 3
    assert logged[0][1]["odd"] != logged[0][1]["odd"]  # NaN
    assert finished == ["finish", ["ZeroDivisionError", "division by zero"]]
    assert capsys.readouterr().err == "      note  see http://host/abc\n"


@pytest.mark.parametrize(
    ("doing", "at", "message"),
    [
        ("raise", "start", "failed in start and is disabled: ConnectionError: no answer, token=(redacted)"),
        ("raise", "log", "failed in log and is disabled: ConnectionError: no answer, token=(redacted)"),
        ("raise", "finish", "failed in finish and is disabled: ConnectionError: no answer, token=(redacted)"),
        ("exit", "log", "ended (exit code 7) and is disabled"),
        ("hang", "start", "has not started within 3 s and is disabled"),
        ("hang", "log", "did not finish within 1.5 s and is stopped"),
        ("spin", "finish", "did not finish within 1.5 s and is stopped"),
    ],
)
def test_a_tracker_that_fails_is_reported_once_and_delays_nothing(
    odd, tmp_path, capsys, monkeypatch, doing, at, message
):
    monkeypatch.setattr(module, "START_LIMIT", 3)
    monkeypatch.setattr(module, "FINISH_LIMIT", 1.5)
    group = group_of(odd, tmp_path, doing=doing, at=at)
    began = time.monotonic()
    group.start(RUN)
    assert time.monotonic() - began < 0.5
    write(tmp_path, 1, 2, 3)
    wanted = {"start": 1, "log": 2, "finish": 4}[at]
    until(lambda: len(notes(tmp_path / "notes")) >= min(wanted, 4) or at == "finish")
    if at == "start":
        until(lambda: "failed" in group._processes[0].state)
    elif at == "finish":
        until(lambda: len(notes(tmp_path / "notes")) == 4)
    pid = notes(tmp_path / "notes")[0][4]
    began = time.monotonic()
    assert group.finish() == ["note"]
    assert time.monotonic() - began < 2.5
    assert not os.path.exists(f"/proc/{pid}")
    said = capsys.readouterr().err
    assert f"   warning  the tracker note {message}\n" in said
    assert said.count("warning") == 1
    assert f"`sft sync {tmp_path} --trace note` sends them" in said


def test_a_run_that_ends_before_a_tracker_has_started_waits_only_briefly(odd, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "UNSTARTED_LIMIT", 1)
    group = group_of(odd, tmp_path, doing="hang", at="start")
    group.start(RUN)
    began = time.monotonic()
    assert group.finish() == ["note"]
    assert time.monotonic() - began < 2.5
    assert "the tracker note did not start in time and is stopped" in capsys.readouterr().err
    group.finish()  # nothing is left to do


def test_endless_output_of_a_tracker_is_dropped(odd, tmp_path, capsys):
    write(tmp_path)
    group = group_of(odd, tmp_path, doing="print")
    group.start(RUN)
    write(tmp_path, 1, 2)
    assert group.finish() == []
    assert "xxx" not in capsys.readouterr().err
    assert len(notes(tmp_path / "notes")) == 4


@pytest.fixture
def ctrl_c():
    """Ctrl-C as at a terminal: a shell has it ignored in what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_the_wait_for_trackers(odd, tmp_path, capsys, ctrl_c):
    group = group_of(odd, tmp_path, doing="hang", at="finish")
    group.start(RUN)
    until(lambda: notes(tmp_path / "notes"))
    threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT]).start()
    began = time.monotonic()
    try:
        assert group.finish() == ["note"]
    except KeyboardInterrupt:
        pytest.fail("what follows the wait was skipped")
    assert time.monotonic() - began < 5


def test_a_run_that_ends_immediately_is_tracked(odd, tmp_path):
    group = group_of(odd, tmp_path)
    group.start(RUN)
    write(tmp_path, 1)
    assert group.finish() == []
    assert [line[0] for line in notes(tmp_path / "notes")] == ["start", "log", "finish"]


def test_a_tracker_class_that_no_other_process_can_import_is_reported(tmp_path, capsys):
    from sftcore import Tracker

    class Here(Tracker):
        def log(self, metrics, step):
            pass

    group = TrackerGroup([("here", Here())], tmp_path)
    group.start(RUN)
    assert group.finish() == ["here"]
    assert "the tracker here failed in start and is disabled" in capsys.readouterr().err


def test_a_run_that_is_killed_still_finishes_its_trackers(odd, tmp_path):
    """The tracker gets no report of the end of the run, but sees that its standard input is closed."""
    code = f"""
import os, signal, sys, time
sys.path.insert(0, {os.path.dirname(odd.__file__)!r})
from pathlib import Path
import odd_trackers
from sftcore.tracking.group import TrackerGroup
folder = Path({str(tmp_path)!r})
TrackerGroup([("note", odd_trackers.Note(folder / "notes"))], folder).start({RUN!r})
while not (folder / "notes").exists():
    time.sleep(0.05)
(folder / "metrics.jsonl").write_text('{{"step": 1, "loss": 2.0}}\\n')
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    until(lambda: len(notes(tmp_path / "notes")) == 3)
    started, logged, finished = notes(tmp_path / "notes")
    assert logged == ["log", {"loss": 2.0}, 1]
    assert finished == ["finish", ["Killed", "the process of the run ended without a report"]]
    until(lambda: not os.path.exists(f"/proc/{started[4]}"))


def test_metrics_truncated_by_resume_are_read_from_there(tmp_path):
    write(tmp_path, 1, 2, 3)
    reader = MetricsReader(tmp_path / "metrics.jsonl", 0)
    assert [step for _, step in reader.read_new()] == [1, 2, 3]
    assert list(reader.read_new()) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nno json\n["neither"]\n')
    assert list(reader.read_new()) == []
    write(tmp_path, 4)
    assert [step for _, step in reader.read_new()] == [4]
    assert list(MetricsReader(tmp_path / "not there", 0).read_new()) == []


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("KeyboardInterrupt: ", KeyboardInterrupt, ""),
        ("OutOfMemoryError: CUDA: out of memory", Exception, "CUDA: out of memory"),
        ("UnicodeDecodeError: bad byte", Exception, "bad byte"),
        ("print: no error", Exception, "no error"),
    ],
)
def test_a_tracker_gets_the_error_of_the_run_as_an_exception(text, kind, message):
    error = parse_error(text)
    assert isinstance(error, kind)
    assert f"{type(error).__name__}: {error}" == text
    assert parse_error(None) is None


@contextmanager
def dead_end():
    """Yield the address of a server that accepts every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def hold():
            while True:
                try:
                    held.append(server.accept())
                except OSError:
                    return

        threading.Thread(target=hold, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for connection, _ in held:
            connection.close()


@pytest.fixture(scope="module")
def runs(make_sft, odd, tmp_path_factory):
    """A run without trackers, and one with misbehaving trackers of every kind."""
    plain, tracked = make_sft(tmp_path_factory.mktemp("plain")), make_sft(tmp_path_factory.mktemp("tracked"))
    plain.train()
    note = {"name": "note", "file": str(tracked.folder / "seed"), "doing": "seed", "at": "log"}
    tracked.config["trackers"] = [
        {"name": "wandb", "mode": "online"},
        {"name": "swanlab", "mode": "online"},
        note,
        {**note, "file": str(tracked.folder / "spin"), "doing": "spin"},
    ]
    with dead_end() as address, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "UNSTARTED_LIMIT", 9)
        patch.setattr(module, "FINISH_LIMIT", 6)
        patch.setenv("WANDB_BASE_URL", address)
        patch.setenv("WANDB_API_KEY", "0123456789" * 4)
        patch.setenv("SWANLAB_API_HOST", address)
        patch.delenv("SWANLAB_API_KEY", raising=False)
        patch.setenv("SWANLAB_SAVE_DIR", str(tracked.folder / "nobody"))
        tracked.said = tracked.train()
    return plain, tracked


def test_trackers_leave_the_weights_bit_identical(runs):
    """One whose server never answers, one without a login, one that seeds generators, and one that spins."""
    plain, tracked = runs
    assert (tracked.out / "model.safetensors").read_bytes() == (plain.out / "model.safetensors").read_bytes()
    assert tracked.losses() == plain.losses()
    assert len(notes(tracked.folder / "seed")) == 1 + len(tracked.metrics()) + 1


def test_each_failing_tracker_is_reported_once(runs):
    _, tracked = runs
    assert tracked.said.count("warning  the tracker wandb did not start in time and is stopped") == 1
    assert tracked.said.count("warning  the tracker swanlab failed in start and is disabled") == 1
    assert tracked.said.count("warning  the tracker note did not finish within 6 s and is stopped") == 1
    assert tracked.said.count("warning") == 3
    assert "0123456789" * 4 not in tracked.said


def test_sft_sync_sends_what_a_tracker_missed(runs, odd, monkeypatch, capsys):
    """The run's own options are used, and the same id."""
    from sftcore.cli.main import main

    _, tracked = runs
    file = tracked.folder / "seed"
    file.unlink()
    record = tracked.record()
    record["config"]["trackers"] = [item for item in record["config"]["trackers"] if item.get("file") == str(file)]
    (tracked.out / "run.json").write_text(json.dumps(record))
    assert main(["sync", str(tracked.out)]) == 0
    started, *logged, finished = notes(file)
    assert started[1] == record["id"]
    assert [(line[2], line[1].get("loss")) for line in logged] == [
        (line["step"], line.get("loss")) for line in tracked.metrics()
    ]
    assert finished == ["finish", None]
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["sync", str(tracked.out), "--trace", "wandb"]) == 0
    assert list(tracked.out.glob(f"wandb/offline-run-*-{record['id']}/*.wandb"))
    assert f"sent  {tracked.out / 'metrics.jsonl'} to wandb" in capsys.readouterr().err
    assert main(["sync", str(tracked.out), "--trace", "wnadb"]) == 2
    assert main(["sync", str(tracked.folder)]) == 2
    assert f"{tracked.folder} is not the output folder of a run: it has no run.json" in capsys.readouterr().err


@pytest.mark.slow
def test_a_resumed_run_keeps_its_tracker_id(sft, odd):
    sft.config["trackers"] = [{"name": "note", "file": str(sft.folder / "notes")}]
    sft.config["training_args"] |= {"save_strategy": "steps", "save_steps": 2}
    sft.train()
    sft.train(f"training_args.resume_from_checkpoint={sft.out}/checkpoint-2")
    sft.train()
    first, resumed, restarted = (line for line in notes(sft.folder / "notes") if line[0] == "start")
    assert first[1] == resumed[1]
    assert restarted[1] != first[1]
    assert sft.record()["id"] == restarted[1]
    steps = [line[2] for line in notes(sft.folder / "notes") if line[0] == "log" and "loss" in line[1]]
    assert steps == [1, 2, 3, 3, 1, 2, 3]


@pytest.mark.slow
def test_a_signal_to_a_finished_run_ends_its_wait_for_trackers(sft, odd):
    sft.config["trackers"] = [{"name": "note", "file": str(sft.folder / "notes"), "doing": "hang", "at": "finish"}]
    command = [sys.executable, "-m", "sftcore", "run", "--config", str(sft.write())]
    path = os.pathsep.join(filter(None, [os.path.dirname(odd.__file__), os.environ.get("PYTHONPATH")]))
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}, cwd=sft.folder)
    try:
        until(lambda: (lines := notes(sft.folder / "notes")) and lines[-1][0] == "finish", 120)
        run.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert run.wait(60) == 0
        assert time.monotonic() - began < 5
    finally:
        run.kill()
    assert sft.record()["status"] == "finished"


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_sigterm_ends_a_run_whose_tracker_hangs(sft, odd, ctrl_c, number):
    """A second signal comes from somebody who does not want to wait; run.json is written all the same."""
    sft.config["training_args"] |= {"max_steps": 100000}
    sft.config["trackers"] = [{"name": "note", "file": str(sft.folder / "notes"), "doing": "hang", "at": "finish"}]
    command = [sys.executable, "-m", "sftcore", "run", "--config", str(sft.write())]
    path = os.pathsep.join(filter(None, [os.path.dirname(odd.__file__), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment, cwd=sft.folder)
    try:
        until(lambda: len(notes(sft.folder / "notes")) > 3, 120)
        run.send_signal(number)
        time.sleep(REPEAT_SECONDS + 0.5)
        until(lambda: notes(sft.folder / "notes")[-1][0] == "finish")
        run.send_signal(number)
        began = time.monotonic()
        assert run.wait(60) == 128 + number
        assert time.monotonic() - began < 4
    finally:
        run.kill()
    assert sft.record()["status"] == "interrupted"
    assert notes(sft.folder / "notes")[-1] == ["finish", ["Stopped", number.name]]
    until(lambda: not os.path.exists(f"/proc/{notes(sft.folder / 'notes')[0][4]}"))
