from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sftcore import Backend, SftError, Tracker, __version__
from sftcore.cli.main import main
from sftcore.config.document import Document
from sftcore.config.loader import LoadedConfig, load_config
from sftcore.core.registry import Broken, Entry, Registry
from sftcore.runtime.signals import StopRequest

HEAVY = {"torch", "transformers", "datasets", "peft", "accelerate", "deepspeed", "bitsandbytes", "wandb", "swanlab"}

CONFIG = """\
model: {name_or_path: m}
data: {train: rows.jsonl}
method: full
trackers: [{name: wandb, project: kept}]
backend: {name: deepspeed, num_gpus: 2}
training_args: {max_steps: 3}
"""


class Started:
    """What ``sft run`` would have run."""

    document: Document
    argv: list[str]
    registry: Registry

    def loaded(self) -> LoadedConfig:
        return load_config(self.document, self.registry, {})


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Started:
    """Stand in for the run itself, in a folder with a configuration at its default place."""
    caught = Started()

    def run(document: Document, registry: Registry, argv: list[str], stop: StopRequest) -> None:
        caught.document, caught.registry, caught.argv = document, registry, argv

    monkeypatch.setattr("sftcore.runs.run.run", run)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "unset")
    monkeypatch.delenv("LOCAL_RANK")
    Path("config").mkdir()
    Path("config/finetune.yaml").write_text(CONFIG)
    Path("ds.json").write_text("{}")
    return caught


def sft(*args: str, python: tuple[str, ...] = (), cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python, "-m", "sftcore", *args], capture_output=True, text=True, cwd=cwd, check=False
    )


def ends(*args: str) -> int:
    """Return the exit code of *args*, however it comes."""
    try:
        return main(list(args))
    except SystemExit as done:
        return int(done.code or 0)


@pytest.mark.parametrize(
    "args",
    [
        ("--help",),
        ("--version",),
        (),
        ("run", "--help"),
        ("list-plugins", "--help"),
        ("list-plugins",),
        ("list-plugins", "--json"),
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(args: tuple[str, ...], tmp_path: Path) -> None:
    done = sft(*args, python=("-X", "importtime"), cwd=tmp_path)
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert done.returncode == 0
    assert {"argparse", "sftcore"} <= imported
    assert imported & HEAVY == set()
    assert done.stdout


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (("--help",), "usage: sft "),
        ((), "list-plugins"),
        (("--version",), f"sftcore {__version__}"),
        (("run", "--help"), "--deepspeed FILE"),
        (("run", "-h"), "KEY=VALUE"),
        (("list-plugins", "--help"), "--json"),
    ],
)
def test_help(args: tuple[str, ...], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(*args) == 0
    assert problem in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (("runn",), "invalid choice: 'runn' (choose from"),
        (("--confg",), "unrecognized arguments: --confg"),
        (("run", "--confg", "x"), "unrecognized arguments: --confg x"),
        (("run", "--conf", "x"), "unrecognized arguments: --conf x"),
        (("run", "stray"), "'stray': expected KEY=VALUE, for example training_args.max_steps=20"),
        (("list-plugins", "stray"), "unrecognized arguments: stray"),
        (("run", "--config"), "expected one argument"),
        (("list-plugins", "--jsn"), "unrecognized arguments: --jsn"),
        (("list-plugins", "a=1"), "unrecognized arguments: a=1"),
        (("run", "--config", "nope.yaml"), "the configuration file nope.yaml does not exist"),
        (("run", "--config", "package:nope/x.yaml"), "the Python package 'nope' is not installed"),
        (("run", "--config", "config"), "error: config cannot be read: Is a directory"),
        (("run", "--config", "ds.json", "=3"), "'=3': expected KEY=VALUE"),
        (("run", "training_args.max_steps.x=1"), "training_args.max_steps has no keys"),
        (("run", "--local_rank", "x"), "--local_rank takes a number, not 'x'"),
        (("run", "--local-rank"), "--local-rank takes a number, not ''"),
    ],
)
@pytest.mark.usefixtures("started")
def test_a_wrong_command_line_is_one_error_line_and_exit_code_2(
    args: tuple[str, ...], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(*args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("error:") == 1
    assert problem in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "model: {name_or_path: m}\nmehtod: full\n",
            r"2 errors:\n  bad\.yaml:1: the key 'data' is missing\n  bad\.yaml:2: mehtod: .* did you mean 'method'\?",
        ),
        ("model: {name_or_path: m}\nmethod: full\n", r"bad\.yaml:1: the key 'data' is missing"),
        ("a: [1\n", r"bad\.yaml:2: not valid YAML"),
        (
            "model: {name_or_path: m}\ndata: {train: $ROWS/a.jsonl}\nmethod: full\n",
            r"bad\.yaml:2: data\.train: '\$ROWS/a\.jsonl': variables are not expanded here",
        ),
        (
            "model: {name_or_path: s3://bucket/m}\ndata: {train: a.jsonl}\nmethod: full\n",
            r"bad\.yaml:1: model\.name_or_path: 's3://bucket/m': a URL cannot be read",
        ),
        (
            "model: {name_or_path: m}\ndata: {train: nope.jsonl}\nmethod: full\n",
            "data source nope.jsonl: the file does not exist",
        ),
    ],
)
def test_an_invalid_configuration_ends_a_run_with_2_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(text)
    assert ends("run", "--config", "bad.yaml") == 2
    said = capsys.readouterr().err
    assert re.search(problem, said)
    assert said.count("sft: error: ") == 1
    assert "Traceback" not in said


def test_an_error_names_its_rank(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "3")
    assert ends("run", "--config", "nope.yaml") == 2
    assert capsys.readouterr().err.startswith("sft [rank 3]: error: ")


def test_ctrl_c_ends_with_exit_code_130(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sftcore.runs.run.run", stop)
    assert ends("run") == 130


@pytest.mark.parametrize(
    "args",
    [
        ("--local_rank=1", "run", "method.r=8"),
        ("--local_rank", "1", "run", "method.r=8"),
        ("run", "--local-rank", "1", "method.r=8"),
        ("run", "method.r=8", "--local-rank=1"),
        ("run", "--config", "config/finetune.yaml", "--local_rank=1", "method.r=8"),
    ],
    ids=" ".join,
)
def test_launchers_may_put_the_local_rank_anywhere(started: Started, args: tuple[str, ...]) -> None:
    assert ends(*args) == 0
    assert os.environ["LOCAL_RANK"] == "1"
    assert started.document.data["method"] == {"name": "full", "r": 8}
    assert not [word for word in started.argv if "local" in word]


def test_the_local_rank_of_the_environment_stays(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert ends("run", "--local_rank", "1") == 0
    assert os.environ["LOCAL_RANK"] == "2"


def test_a_local_rank_of_minus_one_means_none(started: Started) -> None:
    assert ends("run", "--local_rank=-1") == 0
    assert "LOCAL_RANK" not in os.environ


def test_the_default_configuration(started: Started) -> None:
    assert ends("run") == 0
    assert started.document.name == "config/finetune.yaml"
    assert started.argv == ["run"]


def test_overrides_may_stand_anywhere_between_the_flags(started: Started) -> None:
    args = ["run", "seed=7", "--trace", "none", "training_args.max_steps=5", "--config", "config/finetune.yaml", "a=b"]
    assert ends(*args) == 0
    assert started.argv == args
    data = started.document.data
    assert (data["seed"], data["training_args"], data["a"]) == (7, {"max_steps": 5}, "b")
    assert started.document.where(("seed",)) == "'seed=7'"


@pytest.mark.parametrize(
    ("given", "trackers"),
    [
        ("none", ["none"]),
        ("swanlab", ["swanlab"]),
        ("none,swanlab", ["none", "swanlab"]),
        ("wandb", [{"name": "wandb", "project": "kept"}]),
    ],
)
def test_trace_replaces_the_trackers(started: Started, given: str, trackers: list[Any]) -> None:
    assert ends("run", "--trace", given) == 0
    assert started.document.data["trackers"] == trackers


def test_an_unknown_tracker_in_trace_is_an_error(started: Started) -> None:
    assert ends("run", "--trace", "wnadb", "backend=none") == 0
    with pytest.raises(
        SftError, match=r"^--trace: trackers\.0: no installed plugin offers the tracker 'wnadb'; did you m"
    ):
        started.loaded()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{name: deepspeed, num_gpus: 2}", {"name": "deepspeed", "num_gpus": 2, "config": "ds.json"}),
        ("{name: sftcore/deepspeed, num_gpus: 2}", {"name": "deepspeed", "num_gpus": 2, "config": "ds.json"}),
        ("{name: torchrun, nnodes: 2}", {"name": "deepspeed", "config": "ds.json"}),
        ("auto", {"name": "deepspeed", "config": "ds.json"}),
    ],
)
def test_the_flag_of_a_backend(started: Started, before: str, after: dict[str, Any]) -> None:
    Path("config/finetune.yaml").write_text(CONFIG.replace("{name: deepspeed, num_gpus: 2}", before))
    assert ends("run", "--deepspeed", "ds.json") == 0
    assert started.document.data["backend"] == after


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed")
def test_a_missing_file_in_the_flag_of_a_backend_is_an_error(started: Started) -> None:
    assert ends("run", "--deepspeed", "nope.json") == 0
    with pytest.raises(SftError, match=r"^--deepspeed: backend: the DeepSpeed configuration nope\.json does not exist"):
        started.loaded()


@dataclass
class Track(Tracker):
    """Tracks.

    At length.
    """

    project: str = "p"
    """Which project."""


@dataclass
class Reserved(Backend):
    config: str = ""


LISTED = Registry(
    [
        Entry("tracker", "track", "one", "1.0", Track),
        Entry("tracker", "same", "one", "1.0", Track),
        Entry("tracker", "same", "two", "2.0", Track),
        Entry("method", "gone", "two", "2.0", "not_installed:C"),
        Entry("template", "file", "two", "2.0", Path("/x/file.json")),
        Entry("backend", "config", "two", "2.0", Reserved),
    ],
    [Broken("bad", "3.0", "sftcore:main", "ImportError: boom")],
)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    monkeypatch.setattr(Registry, "discover", lambda: LISTED)

    def run(*flags: str) -> str:
        assert ends("list-plugins", *flags) == 0
        return capsys.readouterr().out

    return run


def test_list_as_json(listed: Callable[..., str]) -> None:
    rows = json.loads(listed("--json"))
    assert all(set(row) >= {"kind", "name", "distribution", "version", "status"} for row in rows)
    status = {(row["kind"], row["name"], row["distribution"], row["version"]): row["status"] for row in rows}
    assert status == {
        ("template", "file", "two", "2.0"): "broken",
        ("method", "gone", "two", "2.0"): "broken",
        ("tracker", "same", "one", "1.0"): "ambiguous, write one/same",
        ("tracker", "same", "two", "2.0"): "ambiguous, write two/same",
        ("tracker", "track", "one", "1.0"): "ok",
        ("backend", "config", "two", "2.0"): "ok",
        ("plugin", "sftcore:main", "bad", "3.0"): "broken",
    }
    assert rows[-1]["error"] == "ImportError: boom"


def test_list_as_text(listed: Callable[..., str]) -> None:
    lines = [re.sub(" +", " ", line) for line in listed().splitlines()]
    assert "tracker track one 1.0 ok" in lines
    assert "tracker same two 2.0 ambiguous, write two/same" in lines
    assert lines[-1] == "plugin sftcore:main bad 3.0 broken: ImportError: boom"
    assert len(lines) == 7


def test_list_with_options(listed: Callable[..., str]) -> None:
    text = listed("--verbose")
    assert "    Tracks.\n      project: str = p\n          Which project.\n" in text
    assert "broken: ConfigError: template /x/file.json cannot be read" in text
    assert re.search("method +gone .*broken: there is no module not_installed", text)
    options = {row["name"]: row["options"] for row in json.loads(listed("--verbose", "--json")) if "options" in row}
    assert options["track"] == [{"name": "project", "type": "str", "default": "p", "description": "Which project."}]


def test_list_of_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Registry, "discover", lambda: Registry())
    assert ends("list-plugins") == 0
    assert "no plugins found; install the package" in capsys.readouterr().out
    assert ends("list-plugins", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_backend_cannot_take_a_flag_of_ours(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Registry, "discover", lambda: LISTED)
    assert ends("run", "--config", "config/finetune.yaml") == 0
    assert started.document.data["backend"]["name"] == "deepspeed"


def test_the_installed_list_is_printed_as_json() -> None:
    done = sft("list-plugins", "--json")
    assert ("method", "lora") in {(row["kind"], row["name"]) for row in json.loads(done.stdout)}
    assert done.stderr == ""


@pytest.mark.parametrize("args", [("list-plugins",), ("list-plugins", "--json"), ("cache", "list"), ("--help",), ()])
def test_a_result_that_cannot_be_written_is_an_error(
    args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert ends(*args) == 2
    assert capsys.readouterr().err == "sft: error: the output cannot be written: No space left on device\n"


def test_a_closed_or_full_log_changes_no_exit_code(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (None, open("/dev/full", "w")):  # noqa: SIM115 (closed by the end of the test)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        assert ends("run") == 0
        assert ends("run", "--config", "nope.yaml") == 2
        assert ends("list-plugins") == 2


WITH_STREAMS = """
"$@" run --config c.yaml <&- >&- 2>&- || echo "run, all closed: $?"
"$@" run --config c.yaml >/dev/full 2>/dev/full || echo "run, all full: $?"
"$@" run --config c.yaml 2>&1 | head -c 1 >/dev/null; [ ${PIPESTATUS[0]} = 0 ] || echo "run, no reader"
"$@" prepare --config c.yaml >/dev/full 2>/dev/full || echo "prepare, all full: $?"
"$@" checkpoints out >&- 2>/dev/full; [ $? = 2 ] || echo "checkpoints: $?"
for command in stats preview; do
    "$@" $command --config c.yaml 2>&- | grep -q . || echo "$command without a log"
    "$@" $command --config c.yaml >/dev/full 2>err; [ $? = 2 ] || echo "$command, full: $?"
    grep -q "the output cannot be written: No space left" err || cat err
    "$@" $command --config c.yaml >&- 2>err; [ $? = 2 ] || echo "$command, closed: $?"
    grep -q Traceback err && cat err
done
"""


@pytest.mark.slow
def test_streams_that_are_closed_or_full(tiny: Path, rows: Path, tmp_path: Path) -> None:
    arguments = "{output_dir: out, max_steps: 1, per_device_train_batch_size: 2}"
    config = f"model: {{name_or_path: {tiny}}}\ndata: {{train: {rows}}}\nmethod: full\ntraining_args: {arguments}\n"
    (tmp_path / "c.yaml").write_text(config)
    command = ["bash", "-c", WITH_STREAMS, "bash", sys.executable, "-m", "sftcore"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout + done.stderr == ""
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "finished"


def test_a_closed_pipe_is_not_an_error() -> None:
    command = f"{sys.executable} -m sftcore list-plugins --verbose | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("format")
    assert done.stderr == ""
