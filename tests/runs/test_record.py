from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from sftcore import Method, Tracker, __version__
from sftcore.config.document import Document
from sftcore.config.loader import LoadedConfig, load_config
from sftcore.core.registry import Entry, Registry
from sftcore.runs.record import RunRecord, library_versions
from sftcore.runtime.redaction import REDACTED, redact, redact_argument


@dataclass
class Train(Method):
    requires: ClassVar[tuple[str, ...]] = ("pytest",)


@dataclass
class Track(Tracker):
    api_key: str | None = None


SECRET = "hunter2"


@pytest.fixture
def loaded() -> LoadedConfig:
    registry = Registry([Entry("method", "m", "dist", "1.2", Train), Entry("tracker", "t", "dist", "1.2", Track)])
    text = f"""
        model: {{name_or_path: m, revision: 'https://user:{SECRET}@host/model'}}
        data: {{train: a.jsonl}}
        method: m
        trackers: [{{name: t, api_key: {SECRET}}}]
        training_args: {{hub_token: {SECRET}, max_steps: 3}}
    """
    return load_config(Document(yaml.safe_load(text)), registry, {})


@pytest.mark.parametrize(
    "key",
    [
        "api_key",
        "apikey",
        "API-KEY",
        "WANDB_API_KEY",
        "key",
        "token",
        "HF_TOKEN",
        "hub_token",
        "secret",
        "client_secret",
        "password",
        "db-passwd",
        "credentials",
    ],
)
@pytest.mark.parametrize("value", [SECRET, 12345, [SECRET], {"user": SECRET}])
def test_a_secret_is_redacted_by_its_key(key: str, value: object) -> None:
    for hidden in (redact({key: value}), redact({"a": [{"b": {key: value}}]})):
        assert SECRET not in str(hidden)
        assert "12345" not in str(hidden)
        assert REDACTED in str(hidden)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_new_tokens", 32),
        ("tokenizer", "gpt2"),
        ("tokens", 512),
        ("token_count", "3"),
        ("eos_token", "</s>"),
        ("pad_token", "<pad>"),
        ("keyboard", "a"),
        ("monkey", "a"),
        ("num_key_value_heads", 3),
        ("passwordless", "a"),
        ("target_modules", ["q_proj", "k_proj"]),
        ("use_token", True),
        ("api_key", None),
        ("api_key", ""),
    ],
)
def test_what_only_looks_like_a_secret_is_not_redacted(key: str, value: object) -> None:
    assert redact({key: value}) == {key: value}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:hunter2@host/path", f"https://{REDACTED}@host/path"),
        ("git+https://hunter2@host/x.git", f"git+https://{REDACTED}@host/x.git"),
        ("redis://:hunter2@host:1", f"redis://{REDACTED}@host:1"),
        ("https://user:hun@ter2@host", f"https://{REDACTED}@host"),
        ("see http://a:hunter2@b and http://c:hunter2@d", f"see http://{REDACTED}@b and http://{REDACTED}@d"),
        ("https://host/path", "https://host/path"),
        ("https://host/a@b", "https://host/a@b"),
        ("someone@host", "someone@host"),
        ("host:29500", "host:29500"),
    ],
)
def test_a_login_in_a_url_is_redacted(url: str, shown: str) -> None:
    assert redact(url) == shown
    assert redact({"a": [url]}) == {"a": [shown]}


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("run", "run"),
        ("--deepspeed", "--deepspeed"),
        ("method.r=8", "method.r=8"),
        ("training_args.save_strategy=no", "training_args.save_strategy=no"),
        ("a=2026-13-45", "a=2026-13-45"),
        ("a={b", "a={b"),
        (f"training_args.hub_token={SECRET}", f"training_args.hub_token={REDACTED}"),
        (f"trackers.0.token={SECRET}", f"trackers.0.token={REDACTED}"),
        (f"model.name_or_path=https://u:{SECRET}@h/m", f"model.name_or_path=https://{REDACTED}@h/m"),
        (f"--config=https://u:{SECRET}@h/m", f"--config=https://{REDACTED}@h/m"),
        (f"trackers=[{{name: t, api_key: {SECRET}}}]", f'trackers=[{{"name": "t", "api_key": "{REDACTED}"}}]'),
    ],
)
def test_a_secret_on_the_command_line_is_redacted(argument: str, shown: str) -> None:
    assert redact_argument(argument) == shown


def test_redacting_does_not_change_the_original() -> None:
    value = {"a": [{"token": SECRET}]}
    redact(value)
    assert value == {"a": [{"token": SECRET}]}


def read(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text())


def test_run_json_holds_everything_that_went_into_a_run_and_no_secret(loaded: LoadedConfig, tmp_path: Path) -> None:
    argv = ["run", "method.r=8", f"training_args.hub_token={SECRET}"]
    record = RunRecord(tmp_path / "out", loaded, argv, {"WORLD_SIZE": "2"})
    record.start(resuming=False)
    found = read(tmp_path / "out")
    assert SECRET not in json.dumps(found)
    assert found["command"][1:5] == ["-m", "sftcore", "run", "method.r=8"]
    assert found["config"]["training_args"] == {"hub_token": REDACTED, "max_steps": 3}
    assert found["plugins"]["method"] == {"component": "dist/m", "kind": "method", "version": "1.2"}
    assert set(found["plugins"]) == {"method", "trackers.0"}
    assert found["versions"]["sftcore"] == __version__
    assert (found["status"], found["world_size"], found["host"]["cpus"]) == ("running", 2, os.cpu_count())


def test_run_json_has_the_versions_of_libraries_and_of_packages_components_require(loaded: LoadedConfig) -> None:
    found = library_versions(loaded)
    assert found["pytest"] == pytest.__version__
    assert {"python", "torch", "transformers", "datasets"} <= set(found)


@pytest.mark.parametrize("status", ["finished", "failed", "interrupted"])
def test_run_json_says_how_a_run_ended(loaded: LoadedConfig, tmp_path: Path, status: str) -> None:
    record = RunRecord(tmp_path, loaded, [], {})
    record.start(resuming=False)
    record.finish(status, steps=3, odd=Path("x"))
    found = read(tmp_path)
    assert (found["status"], found["steps"], found["odd"], found["world_size"]) == (status, 3, "x", 1)
    assert found["started"] <= found["ended"]
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("resuming", [False, True])
def test_files_of_an_earlier_run_are_moved_to_earlier(loaded: LoadedConfig, tmp_path: Path, resuming: bool) -> None:
    for name in ("run.json", "metrics.jsonl", "quarantine.jsonl"):
        (tmp_path / name).write_text('"earlier"')
    RunRecord(tmp_path, loaded, [], {}).start(resuming)
    kept = {path.name: path.read_text() for path in tmp_path.glob("earlier/*/*")}
    assert kept == dict.fromkeys(
        ("run.json", "quarantine.jsonl", *(() if resuming else ("metrics.jsonl",))), '"earlier"'
    )
    assert (tmp_path / "metrics.jsonl").exists() is resuming
    assert read(tmp_path)["status"] == "running"


@pytest.mark.parametrize("resuming", [False, True])
@pytest.mark.parametrize("survives", range(4))
def test_a_kill_at_any_moment_leaves_a_record_beside_its_metrics(
    loaded: LoadedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resuming: bool, survives: int
) -> None:
    """The run that comes next finds the id, or moves the metrics away with the record."""
    (tmp_path / "run.json").write_text('{"id": "first"}')
    for name in ("metrics.jsonl", "quarantine.jsonl"):
        (tmp_path / name).write_text("of the first")
    calls = iter(range(survives + 1))

    def until_killed(call: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            if next(calls, survives) == survives:
                raise KeyboardInterrupt
            return call(*args, **kwargs)

        return run

    for owner, name in ((shutil, "copy2"), (Path, "rename"), (Path, "replace")):
        monkeypatch.setattr(owner, name, until_killed(getattr(owner, name)))
    with suppress(KeyboardInterrupt):
        RunRecord(tmp_path, loaded, [], {}).start(resuming)
    monkeypatch.undo()
    RunRecord(tmp_path, loaded, [], {}).start(resuming)
    assert (read(tmp_path)["id"] == "first") is resuming
    assert (tmp_path / "metrics.jsonl").exists() is resuming


def test_metrics_without_a_record_are_moved_too(loaded: LoadedConfig, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("of another run")
    RunRecord(tmp_path, loaded, [], {}).start(resuming=False)
    assert not (tmp_path / "metrics.jsonl").exists()
    assert next(tmp_path.glob("earlier/*/metrics.jsonl")).read_text() == "of another run"
