"""The shape of the code: sizes, what a package loads, who knows whom; the layers are contracts in pyproject.toml."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sftcore.core.registry import Registry

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "sftcore").rglob("*.py"))
PUBLIC = ("sftcore", "sftcore.launching", "sftcore.rows", "sftcore.testing")
"""The modules that a plugin may import."""

WORDS = {"completion", "full", "instruction", "messages", "none", "qa"}
"""Names that are also English words: allowed in a sentence, but not as a value."""

NAMES = sorted({entry.name for entry in Registry.discover().entries if entry.distribution == "sftcore"})


def loaded_by(package: str) -> dict[str, str]:
    """Modules that a new interpreter loads for all modules of *package*, beside those that it loads for nothing."""
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / package.replace(".", "/")).rglob("*.py")
    )
    code = (
        "import sys; before = set(sys.modules)\n"
        f"import {', '.join(modules)}\n"
        "for name in sys.modules.keys() - before:\n"
        "    print(name, getattr(sys.modules[name], '__file__', None) or '')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert loaded.keys() >= {*modules}
    return loaded


def own_lines(loaded: dict[str, str]) -> int:
    ours = [file for name, file in loaded.items() if name.split(".")[0] == "sftcore"]
    return sum(len(Path(file).read_text().splitlines()) for file in ours)


def third_parties(loaded: dict[str, str]) -> set[str]:
    roots = {name.split(".")[0] for name in loaded} - sys.stdlib_module_names - {"sftcore"}
    return {root for root in roots if "cython" not in root}  # made by the C extension of PyYAML


def test_the_core_is_small_with_all_that_it_imports() -> None:
    loaded = loaded_by("sftcore.core")
    assert third_parties(loaded) == {"pluggy"}
    assert 500 < own_lines(loaded) <= 1000


def test_the_configuration_loads_little() -> None:
    loaded = loaded_by("sftcore.config")
    assert third_parties(loaded) == {"pluggy", "yaml"}
    assert 1000 < own_lines(loaded) <= 2600


def test_no_module_has_more_than_400_lines() -> None:
    assert [str(path.relative_to(ROOT)) for path in SOURCES if len(path.read_text().splitlines()) > 400] == []


def test_there_are_names_to_look_for() -> None:
    assert len(NAMES) >= 19
    assert set(NAMES) > WORDS


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WORDS])
def test_the_core_names_no_component(name: str) -> None:
    word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", re.IGNORECASE)
    assert found(lambda text, _: ((number, line) for number, line in enumerate(text, 1) if word.search(line))) == []


@pytest.mark.parametrize("name", sorted(WORDS))
def test_the_core_has_no_component_as_a_value(name: str) -> None:
    def values(text: list[str], path: Path) -> Iterator[tuple[int, str]]:
        tree = ast.parse("\n".join(text))
        others = {id(node) for node in other_meanings(tree, path, name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node.value == name and id(node) not in others:
                yield node.lineno, text[node.lineno - 1]

    assert found(values) == []


def other_meanings(tree: ast.Module, path: Path, name: str) -> Iterator[ast.AST]:
    """Yield the nodes of the few places where *name* is not a component: every chat template gets its ``messages``."""
    if name == "none":  # the reduction of a loss of torch
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "reduction":
                yield from ast.walk(node)
    if name != "messages":
        return
    if ROOT / "sftcore" / "labelling" in path.parents:
        yield from ast.walk(tree)
    if path == ROOT / "sftcore" / "core" / "components.py":
        for node in ast.walk(tree):
            if is_set(node, "RESERVED"):
                yield from ast.walk(node)


def is_set(node: ast.AST, constant: str) -> bool:
    """Whether *node* assigns *constant*."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(getattr(target, "id", "") == constant for target in targets)


def found(search: object) -> list[str]:
    assert callable(search)
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in search(path.read_text().splitlines(), path)
    ]


def test_imports_keep_to_the_layers() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_the_contract_of_plugins_names_all_that_is_internal() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = [contract for contract in contracts if contract["name"] == "Plugins use the public API only"]
    children = {path.parent.name for path in (ROOT / "sftcore").glob("*/__init__.py")}
    children |= {path.stem for path in (ROOT / "sftcore").glob("*.py")}
    internal = {f"sftcore.{child}" for child in children - {"__init__", "__main__"}} - {*PUBLIC}
    assert {*contract["forbidden_modules"]} == internal


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").rglob("*.py")), ids=lambda path: path.stem)
def test_a_plugin_takes_from_the_core_what_is_public(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sftcore":
            assert node.module in PUBLIC
            assert {alias.name for alias in node.names} <= set(importlib.import_module(node.module).__all__)
        if isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.split(".")[0] in ("sftcore", "plugins")]
