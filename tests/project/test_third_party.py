from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import SMOLLM2

EXAMPLE = Path(__file__).parents[1] / "examples" / "sft-plugin-xyz"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")

Sft = Callable[..., subprocess.CompletedProcess[str]]


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)


def build_and_install(target: Path, *sources: Path) -> None:
    """Build wheels of the projects in *sources* beside *target*, and install them in it."""
    wheels = target.parent / f"{target.name}-wheels"
    names = [source.name for source in sources]
    for command in (
        (*PIP, "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", wheels, *sources),
        (*PIP, "install", "--no-deps", "--no-index", "--target", target, "--find-links", wheels, *names),
    ):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def project(name: str, module: str, found: str = "py-modules") -> str:
    return f"""\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "2.0"
[project.entry-points.sftcore]
main = "{module}"
[tool.setuptools]
{found} = ["{module}"]
"""


HOOKS = """\
from sftcore import BackendSpec, FormatSpec, hookimpl

@hookimpl
def register_formats():
    return {"slow": FormatSpec("sft_slow.parts.a_format:C", keys=["slow"]), "slow_named": "sft_slow.parts.named:C"}

@hookimpl
def register_methods():
    return {"slow": "sft_slow.parts.a_method:C"}

@hookimpl
def register_trackers():
    return {"slow": "sft_slow.parts.a_tracker:C"}

@hookimpl
def register_backends():
    spec = BackendSpec("sft_slow.parts.a_backend:C", [{"SFT_SLOW": True}], ["no_such_argument"], file_option="file")
    return {"slow": spec}
"""

TRACE = """\
import os, time
with open(os.environ["IMPORTED"], "a") as file:
    print(__name__, file=file)
"""
SLOW = TRACE + "time.sleep(0.2)\nraise RuntimeError('imported')\n"
"""A module that leaves a trace, takes a while, and fails."""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four third-party packages: good, broken, clashing by name, and one that is slow to import."""
    folder = tmp_path_factory.mktemp("third-party")
    clash = (
        "from sftcore import hookimpl\n@hookimpl\ndef register_methods():\n    return {'full': 'not_installed:Full'}\n"
    )
    write(folder / "xyz", {str(path.relative_to(EXAMPLE)): path.read_text() for path in tracked(EXAMPLE)})
    (folder / "xyz").rename(folder / "sft-plugin-xyz")
    write(
        folder / "sft-broken", {"pyproject.toml": project("sft-broken", "sft_b"), "sft_b.py": "import not_installed\n"}
    )
    write(folder / "sft-clash", {"pyproject.toml": project("sft-clash", "sft_c"), "sft_c.py": clash})
    slow = {f"sft_slow/parts/{name}.py": SLOW for name in ("named", "a_format", "a_method", "a_tracker", "a_backend")}
    slow |= {"sft_slow/__init__.py": HOOKS, "sft_slow/parts/__init__.py": TRACE}
    pyproject = project("sft-slow", "sft_slow", "packages").replace('["sft_slow"]', '["sft_slow", "sft_slow.parts"]')
    write(folder / "sft-slow", {"pyproject.toml": pyproject, **slow})
    names = ("sft-plugin-xyz", "sft-broken", "sft-clash", "sft-slow")
    build_and_install(folder / "target", *(folder / name for name in names))
    return folder / "target"


def tracked(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix in (".py", ".json", ".toml", ".md")]


@pytest.fixture
def sft_with_plugins(target: Path, tmp_path: Path) -> Sft:
    def start(*args: str, **config: Any) -> subprocess.CompletedProcess[str]:
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        more = ("--config", "c.yaml") if config else ()
        path = os.pathsep.join(filter(None, (str(target), os.environ.get("PYTHONPATH"))))
        environ = {**os.environ, "PYTHONPATH": path, "IMPORTED": str(tmp_path / "imported")}
        return run(sys.executable, "-m", "sftcore", *args, *more, cwd=tmp_path, env=environ)

    return start


CONFIG: dict[str, Any] = {"model": {"name_or_path": "./no-model"}, "method": "sftcore/full"}


def test_the_wheel_holds_the_template(target: Path) -> None:
    (wheel,) = target.parent.glob("target-wheels/sft_plugin_xyz-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "sft_plugin_xyz/templates/xyz_chat.json" in names


def test_they_are_listed(sft_with_plugins: Sft) -> None:
    rows = json.loads(sft_with_plugins("list-plugins", "--json").stdout)
    status = {(row["kind"], row["name"], row["distribution"], row["version"]): row["status"] for row in rows}
    assert status["format", "xyz", "sft-plugin-xyz", "0.3.0"] == "ok"
    assert status["template", "xyz_chat", "sft-plugin-xyz", "0.3.0"] == "ok"
    assert status["method", "full", "sft-clash", "2.0"] == "broken"
    assert status["method", "full", "sftcore", version("sftcore")] == "ambiguous, write sftcore/full"
    assert status["plugin", "sftcore:main", "sft-broken", "2.0"] == "broken"
    assert [row["error"] for row in rows if "error" in row] == [
        "there is no module not_installed",
        "ModuleNotFoundError: No module named 'not_installed'",
    ]
    assert sum(row["distribution"] == "sftcore" for row in rows) >= 20


def test_their_options_are_shown(sft_with_plugins: Sft) -> None:
    shown = sft_with_plugins("list-plugins", "--verbose").stdout
    assert "tag: str | None = null\n          What every row must be tagged with.\n" in shown


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "full"}, "the method 'full' is ambiguous; write one of: sft-clash/full, sftcore/full"),
        ({"method": "sft-clash/full"}, "the method 'full' of sft-clash 2.0 cannot be loaded: ModuleNotFoundError"),
        (
            {"method": "fulll"},
            "sft-broken 2.0 failed to load (sftcore:main): ModuleNotFoundError: No module named 'not_inst",
        ),
        (
            {"data": {"train": {"path": "r.jsonl", "format": {"name": "xyz", "tga": "g"}}}},
            "tga: unknown key; did you mean 'tag'",
        ),
    ],
)
def test_they_are_used_by_name(sft_with_plugins: Sft, tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    rows = [{"x": "What?", "y": "That.", "z": ["g"]}, {"x": "Who?", "y": "Me.", "z": []}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = sft_with_plugins("run", **{**CONFIG, "data": {"train": "r.jsonl"}, "template": "xyz_chat", **changes})
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "code", "told"),
    [
        ({"name": "xyz", "tag": "g"}, 2, "r.jsonl:2: the row is not tagged 'g'"),
        ("sft-plugin-xyz/xyz", 0, "2 rows read: 2 trained"),
    ],
    ids=["with an option", "by its whole name"],
)
def test_they_read_rows(sft_with_plugins: Sft, tmp_path: Path, form: object, code: int, told: str) -> None:
    rows = [{"x": "What?", "y": "That.", "z": ["g"]}, {"x": "Who?", "y": "Me.", "z": []}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"train": {"path": "r.jsonl", "format": form}}
    config = {"model": {"name_or_path": SMOLLM2}, "method": "sftcore/full", "data": data, "template": "xyz_chat"}
    done = sft_with_plugins("prepare", **config)
    assert (done.returncode, told in done.stderr) == (code, True), done.stderr


@pytest.mark.slow
def test_a_model_is_trained_with_them(sft_with_plugins: Sft, tiny: Path, tmp_path: Path) -> None:
    rows = [{"x": f"What is {number}?", "y": f"A number, {number}.", "z": ["good"]} for number in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = sft_with_plugins(
        "run",
        model={"name_or_path": str(tiny)},
        data={"train": [{"path": "rows.jsonl", "format": {"name": "xyz", "tag": "good"}}, "rows.jsonl"]},
        template="xyz_chat",
        method="sftcore/full",
        training_args={"output_dir": "out", "max_steps": 2, "logging_steps": 1, "save_strategy": "no"},
    )
    assert done.returncode == 0, done.stderr
    assert "rows.jsonl: 8 rows, format xyz\n" in done.stderr
    assert "rows.jsonl: 8 rows, format xyz (auto)\n" in done.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    used = {key: (item["component"], item["version"]) for key, item in record["plugins"].items()}
    assert used["data.train.0.format"] == used["data.train.1.format"] == ("sft-plugin-xyz/xyz", "0.3.0")
    assert used["template"] == ("sft-plugin-xyz/xyz_chat", "0.3.0")
    assert "<<" in (tmp_path / "out" / "chat_template.jinja").read_text()
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    "args",
    [("--help",), ("list-plugins",), ("list-plugins", "--json"), ("run", "--help"), ("prepare", "a=b")],
    ids=" ".join,
)
def test_a_component_that_nobody_selects_is_not_imported(sft_with_plugins: Sft, tmp_path: Path, args: Any) -> None:
    done = sft_with_plugins(*args)
    assert done.returncode == (2 if args[0] == "prepare" else 0), done.stderr
    assert not (tmp_path / "imported").exists()
    if args[0] == "list-plugins":
        assert "sft-slow" in done.stdout
    if args[0] == "run":
        assert "--slow FILE" in done.stdout


def test_a_component_is_imported_when_selected_or_described(sft_with_plugins: Sft, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"slow": 1}\n')
    config = {"model": {"name_or_path": SMOLLM2}, "method": "sftcore/full", "data": {"train": "r.jsonl"}}
    done = sft_with_plugins("prepare", **config)
    assert (tmp_path / "imported").read_text().split() == ["sft_slow.parts", "sft_slow.parts.a_format"]
    problem = "the format 'slow' of sft-slow 2.0 cannot be loaded: RuntimeError: imported"
    assert f"data.train.0.format: {problem}" in done.stderr
    assert sft_with_plugins("list-plugins", "--verbose").stdout.count("cannot be loaded: RuntimeError: imported") == 5
