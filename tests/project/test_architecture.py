from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sftcore.core.registry import Registry

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "sftcore").rglob("*.py"))
KERNEL = ("core/types", "core/errors", "core/components", "core/hookspecs", "core/registry", "config/schema")

WORDS = {"full", "instruction", "messages", "none", "qa"}
"""Names that are also English words: allowed in a sentence, but not as a value."""

NAMES = sorted({entry.name for entry in Registry.discover().entries if entry.distribution == "sftcore"})


def test_the_kernel_is_small() -> None:
    lines = sum(len((ROOT / "sftcore" / f"{name}.py").read_text().splitlines()) for name in KERNEL)
    assert 0 < lines <= 1200


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
        meant_otherwise = {id(node) for node in of_chat_templates(tree, path, name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node.value == name and id(node) not in meant_otherwise:
                yield node.lineno, text[node.lineno - 1]

    assert found(values) == []


def of_chat_templates(tree: ast.Module, path: Path, name: str) -> Iterator[ast.AST]:
    """Yield the nodes of the few places where *name* is not a component: every chat template gets its ``messages``."""
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


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").rglob("*.py")), ids=lambda path: path.stem)
def test_a_plugin_takes_from_the_core_what_is_public(path: Path) -> None:
    import sftcore

    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sftcore":
            assert node.module == "sftcore"
            assert {alias.name for alias in node.names} <= set(sftcore.__all__)
        if isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.split(".")[0] in ("sftcore", "plugins")]
