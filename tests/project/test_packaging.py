from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "sftcore": "sftcore",
    "plugins": "sftcore_plugins",
    "templates": "sftcore_templates",
    "config": "sftcore_config",
}
"""Folders of the repository, and the packages they install as."""

DATA = {".json", ".jsonl", ".jinja", ".yaml"}


def installed_name(path: Path) -> str:
    """The place in a wheel of *path*, which is relative to the repository."""
    return str(Path(FOLDERS[path.parts[0]], *path.parts[1:]))


def sources() -> list[Path]:
    """The files of the four folders, without leftovers."""
    files = [path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    return sorted(path for path in files if "__pycache__" not in path.parts and not path.name.startswith("."))


def run(*command: object, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    pack = tmp_path_factory.mktemp("copy")
    ours = [path.relative_to(ROOT) for path in ROOT.iterdir() if path.is_file() and not path.name.startswith(".")]
    extra = [path.relative_to(ROOT) for name in ("docs", "tests", "bench") for path in (ROOT / name).rglob("*")]
    for path in [*sources(), *ours, *extra]:
        if (ROOT / path).is_file() and "__pycache__" not in path.parts:
            (pack / path).parent.mkdir(parents=True, exist_ok=True)
            (pack / path).write_bytes((ROOT / path).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, pack, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def target(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed in it."""
    folder = tmp_path_factory.mktemp("target")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", "--target", folder, wheel, cwd=folder)
    return folder


def test_the_list_of_packages_is_the_tree() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    tree = {installed_name(path.parent).replace("/", ".") for path in sources() if path.name == "__init__.py"}
    assert sorted(setuptools["packages"]) == sorted(tree)
    assert setuptools["package-dir"] == {name: folder for folder, name in FOLDERS.items() if name != folder}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_with_code_is_a_package(folder: str) -> None:
    folders = {path.parent for path in sources() if path.suffix == ".py" and path.parts[0] == folder}
    assert folders
    assert [str(path) for path in folders if not (ROOT / path / "__init__.py").is_file()] == []


def test_a_wheel_holds_every_file_of_the_tree_and_no_other(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {installed_name(path) for path in sources()}
    assert {Path(name).suffix for name in names} >= {".py", ".json", ".jsonl", ".yaml"}
    assert {"sftcore/py.typed", "sftcore_plugins/py.typed"} <= names


def test_a_wheel_has_no_other_top_level(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in tops if not name.endswith(".dist-info")} == set(FOLDERS.values())


def test_an_sdist_holds_what_a_contributor_needs(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {str(path) for path in sources()} <= names
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "Makefile",
        "constraints.txt",
        "tests/project/test_packaging.py",
    } <= names
    assert not [name for name in names if name.endswith(".pyc")]


def test_what_is_installed_shows_every_component(target: Path, tmp_path: Path) -> None:
    shown = run(sys.executable, "-m", "sftcore", "list-plugins", "--json", cwd=tmp_path, PYTHONPATH=str(target))
    rows = [row for row in json.loads(shown) if row["distribution"] == "sftcore"]
    assert {row["status"] for row in rows} == {"ok"}
    here = run(sys.executable, "-m", "sftcore", "list-plugins", "--json", cwd=ROOT)
    assert rows == [row for row in json.loads(here) if row["distribution"] == "sftcore"]
    files = {path.stem for path in sources() if path.parts[0] == "templates" and path.suffix in DATA}
    assert {row["name"] for row in rows if row["kind"] == "template"} == files


def test_what_is_installed_is_used_from_there(target: Path, tmp_path: Path) -> None:
    code = """
from importlib.util import find_spec
import sftcore
from sftcore.runtime.paths import locate
from sftcore.core.registry import Registry
print(sftcore.__file__, locate("package:sftcore_config/deepspeed/ds_config.json"))
print(*(entry.target for entry in Registry.discover().of_kind("template") if entry.distribution == "sftcore"))
print(*(find_spec(name) for name in ("plugins", "config", "templates")))
"""
    modules, templates, repository = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(target)).splitlines()
    for path in [*modules.split(), *templates.split()]:
        assert Path(path).is_relative_to(target)
        assert Path(path).is_file()
    assert repository == "None None None"
