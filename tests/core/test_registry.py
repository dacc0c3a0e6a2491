from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from sftcore import Format, Method
from sftcore.core.components import Component
from sftcore.core.errors import PluginError
from sftcore.core.registry import Broken, Entry, Registry
from sftcore.core.template_file import FileTemplate

Install = Callable[..., Path]
"""``install(name, {group: {entry: module}}, {file: text})`` puts a distribution on ``sys.path``."""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    def make(
        name: str,
        points: Mapping[str, Mapping[str, str]] | str,
        files: Mapping[str, str] | None = None,
        version: str = "1.0",
        place: str | None = None,
    ) -> Path:
        folder = tmp_path / (place or name)
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        if not isinstance(points, str):
            points = "".join(
                f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
                for group, entries in points.items()
            )
        (info / "entry_points.txt").write_text(points)
        for path, text in (files or {}).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(textwrap.dedent(text))
        monkeypatch.syspath_prepend(folder)
        return folder

    return make


def hook_module(body: str, hook: str = "register_formats") -> str:
    return f"from sftcore import hookimpl\n\n@hookimpl\ndef {hook}():\n    {body}\n"


def of(registry: Registry, distribution: str) -> list[tuple[str, str]]:
    return [(entry.kind, entry.name) for entry in registry.entries if entry.distribution == distribution]


BUILT_IN = of(Registry.discover(), "sftcore")


def test_built_in_components_are_plugins_too() -> None:
    registry = Registry.discover()
    assert {kind for kind, _ in BUILT_IN} == {"format", "template", "method", "tracker", "backend"}
    assert not [item for item in registry.broken if item.distribution == "sftcore"]
    for entry in registry.entries:
        if entry.distribution == "sftcore":
            assert issubclass(entry.component_class(), Component)


def test_a_plugin_of_every_kind(install: Install) -> None:
    kinds = ("format", "template", "method", "tracker", "backend")
    hooks = "".join(hook_module(f"return {{'my_{kind}': 'heavy:{kind}'}}", f"register_{kind}s") for kind in kinds)
    install("sft-all", {"sftcore": {"main": "sft_all_hooks"}}, {"sft_all_hooks.py": hooks})
    assert of(Registry.discover(), "sft-all") == [(kind, f"my_{kind}") for kind in kinds]


def test_a_hook_may_return_the_class(install: Install) -> None:
    module = "from sftcore import Format\n\nclass Mine(Format):\n    pass\n" + hook_module("return {'mine': Mine}")
    install("sft-class", {"sftcore": {"main": "sft_class_hooks"}}, {"sft_class_hooks.py": module})
    entry = Registry.discover().find("format", "mine")
    assert issubclass(entry.component_class(), Format)
    assert (entry.qualified, entry.version, str(entry)) == (
        "sft-class/mine",
        "1.0",
        "the format 'mine' of sft-class 1.0",
    )


def test_templates_that_are_only_files(install: Install) -> None:
    files = {"sft_words/a.json": "{}", "sft_words/b.jinja": "", "sft_words/c.txt": "", "sft_words/__init__.py": "1 / 0"}
    folder = install("sft-words", {"sftcore.templates": {"words": "sft_words"}}, files)
    registry = Registry.discover()
    assert of(registry, "sft-words") == [("template", "a"), ("template", "b")]
    entry = registry.find("template", "sft-words/a")
    assert entry.target == folder / "sft_words" / "a.json"
    assert entry.component_class() is FileTemplate


BROKEN = {
    "import": (
        {"sftcore": {"x": "sft_broken"}},
        {"sft_broken.py": "import not_installed"},
        "ModuleNotFoundError: No mod",
    ),
    "no module": ({"sftcore": {"x": "sft_nowhere"}}, {}, "ModuleNotFoundError: No module named 'sft_nowhere'"),
    "exit": ({"sftcore": {"x": "sft_broken"}}, {"sft_broken.py": "raise SystemExit('no GPU')"}, "SystemExit: no GPU"),
    "syntax": ({"sftcore": {"x": "sft_broken"}}, {"sft_broken.py": "def"}, "SyntaxError: "),
    "raises": (
        {"sftcore": {"x": "sft_broken"}},
        {"sft_broken.py": hook_module("raise OSError('two\\nlines')")},
        "OSError: two",
    ),
    "unknown hook": (
        {"sftcore": {"x": "sft_broken"}},
        {"sft_broken.py": hook_module("return {}", "register_formts")},
        "PluginError: unknown hook 'register_formts', which may need a newer sftcore; did you mean 'register_formats'?",
    ),
    "arguments": (
        {"sftcore": {"x": "sft_broken"}},
        {"sft_broken.py": "from sftcore import hookimpl\n\n@hookimpl\ndef register_formats(config):\n    return {}\n"},
        "PluginValidationError: ",
    ),
    "nothing": (
        {"sftcore": {"x": "sft_broken"}},
        {"sft_broken.py": "x = 1"},
        "PluginError: sft_broken registers nothing",
    ),
    "unmarked": (
        {"sftcore": {"x": "sft_broken"}},
        {"sft_broken.py": "def register_formats():\n    return {'f': 'm:C'}"},
        "PluginError: sft_broken registers nothing: mark its functions with @sftcore.hookimpl",
    ),
    "no mapping": (
        {"sftcore": {"x": "sft_broken"}},
        {"sft_broken.py": hook_module("return ['a']")},
        "AttributeError: ",
    ),
    "no class": (
        {"sftcore": {"x": "sft_broken"}},
        {"sft_broken.py": hook_module("return {'a': 3}")},
        "PluginError: register_formats must return a mapping of names to classes or 'module:Class'",
    ),
    "attribute": (
        {"sftcore": {"x": "sft_broken:f"}},
        {"sft_broken.py": "def f(): ..."},
        "PluginError: sft_broken:f is not a",
    ),
    "no templates": (
        {"sftcore.templates": {"x": "sft_broken"}},
        {"sft_broken/__init__.py": "", "sft_broken/README.txt": ""},
        "PluginError: the package sft_broken has no *.json or *.jinja files (are they missing from the wheel?)",
    ),
    "no package": (
        {"sftcore.templates": {"x": "sft_nowhere"}},
        {},
        "PluginError: sft_nowhere is not an importable package",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_listed_and_does_not_affect_the_others(
    install: Install, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    points, files, problem = BROKEN[case]
    good = {"sft_good_hooks.py": hook_module("return {'fine': 'm:C'}")}
    install("sft-bad", points, files, version="2.1")
    install("sft-good", {"sftcore": {"main": "sft_good_hooks"}}, good)
    monkeypatch.delitem(sys.modules, "sft_broken", raising=False)
    registry = Registry.discover()
    (broken,) = registry.broken
    assert (broken.distribution, broken.version) == ("sft-bad", "2.1")
    assert broken.entry_point == f"{next(iter(points))}:x"
    assert broken.error.startswith(problem)
    assert "\n" not in broken.error
    assert of(registry, "sft-bad") == []
    assert of(registry, "sft-good") == [("format", "fine")]
    assert of(registry, "sftcore") == BUILT_IN


def test_one_broken_entry_point_does_not_affect_the_others_of_its_distribution(install: Install) -> None:
    points = {"sftcore": {"bad": "sft_half_bad", "good": "sft_half_good"}}
    files = {"sft_half_bad.py": "1 / 0", "sft_half_good.py": hook_module("return {'half': 'm:C'}")}
    install("sft-half", points, files)
    registry = Registry.discover()
    assert of(registry, "sft-half") == [("format", "half")]
    assert [item.entry_point for item in registry.broken] == ["sftcore:bad"]


def test_an_unknown_hook_costs_no_component_of_its_module(install: Install) -> None:
    module = hook_module("return {'kept': 'm:C'}") + hook_module("return {}", "register_losses")
    install("sft-newer", {"sftcore": {"main": "sft_newer_hooks"}}, {"sft_newer_hooks.py": module})
    registry = Registry.discover()
    assert of(registry, "sft-newer") == [("format", "kept")]
    (broken,) = registry.broken
    assert broken.error.startswith("PluginError: unknown hook 'register_losses', which may need a newer sftcore")
    assert broken.traceback.startswith("Traceback (most recent call last):\n")


class Undecorated(Format):
    separator: str = "|"


class WithoutOptions(Format):
    sizes: ClassVar[tuple[int, ...]] = ()


def test_options_of_a_class_that_is_not_a_dataclass_are_an_error() -> None:
    with pytest.raises(PluginError, match="declares options, but is not a dataclass: put @dataclass above Undecorated"):
        entry("format", "x", Undecorated).component_class()
    assert entry("format", "x", WithoutOptions).component_class() is WithoutOptions


def test_a_package_with_unreadable_entry_points_is_ignored(install: Install) -> None:
    install("whatever", "[console_scripts]\nno equals sign\n")
    assert of(Registry.discover(), "sftcore") == BUILT_IN


def test_a_distribution_that_is_installed_twice_counts_once_and_the_first_on_the_path_wins(install: Install) -> None:
    points = {"sftcore": {"main": "sft_twice_hooks"}}
    install("sft-twice", points, {"sft_twice_hooks.py": hook_module("return {'b': 'm:C'}")}, "1.0", "behind")
    install("sft-twice", points, {"sft_twice_hooks.py": hook_module("return {'a': 'm:C'}")}, "2.0", "front")
    registry = Registry.discover()
    assert [(entry.name, entry.version) for entry in registry.entries if entry.distribution == "sft-twice"] == [
        ("a", "2.0")
    ]
    assert registry.broken == []


def test_two_components_of_one_name_are_ambiguous(install: Install) -> None:
    name = next(name for kind, name in BUILT_IN if kind == "format")
    install(
        "sft-clash", {"sftcore": {"formats": "sft_clash"}}, {"sft_clash.py": hook_module(f"return {{{name!r}: 'm:C'}}")}
    )
    registry = Registry.discover()
    both = [entry for entry in registry.entries if entry.name == name and entry.kind == "format"]
    assert [entry.distribution for entry in both] == ["sft-clash", "sftcore"]
    assert all(registry.is_ambiguous(entry) for entry in both)
    assert sum(map(registry.is_ambiguous, registry.entries)) == 2
    with pytest.raises(PluginError) as error:
        registry.find("format", name)
    assert str(error.value) == f"the format '{name}' is ambiguous; write one of: sft-clash/{name}, sftcore/{name}"
    assert [registry.find("format", entry.qualified) for entry in both] == both


def entry(kind: str, name: str, target: object = Format, distribution: str = "d") -> Entry:
    return Entry(kind, name, distribution, "1.0", target)  # type: ignore[arg-type]


def test_the_same_name_in_two_kinds_is_not_ambiguous() -> None:
    registry = Registry([entry("format", "x"), entry("method", "x", Method)])
    assert registry.find("method", "x").target is Method
    assert not any(map(registry.is_ambiguous, registry.entries))


def test_the_error_for_an_unknown_name_has_the_nearest_name_and_the_broken_plugins() -> None:
    registry = Registry(
        [entry("format", "words"), entry("method", "wards", Method)],
        [Broken("bad", "3", "sftcore:x", "ImportError: y")],
    )
    with pytest.raises(PluginError) as error:
        registry.find("format", "wrods")
    assert str(error.value) == (
        "no installed plugin offers the format 'wrods'; did you mean 'words'? (installed: words)\n"
        "  bad 3 failed to load (sftcore:x): ImportError: y"
    )


def test_the_error_without_any_plugin_says_so() -> None:
    with pytest.raises(PluginError, match="no plugin is installed"):
        Registry().find("format", "x")


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (
            "not_installed:C",
            "the format 'x' of d 1.0 cannot be loaded: ModuleNotFoundError: No module named 'not_installed'",
        ),
        ("json:Nope", "the format 'x' of d 1.0 cannot be loaded: AttributeError: "),
        ("json", "the format 'x' of d 1.0 cannot be loaded: "),
        ("", "the format 'x' of d 1.0 cannot be loaded: "),
        ("json:dumps", "not a subclass of sftcore.Format"),
        (Method, "not a subclass of sftcore.Format"),
    ],
)
def test_a_target_that_is_not_a_component_is_an_error(target: object, problem: str) -> None:
    with pytest.raises(PluginError) as error:
        entry("format", "x", target).component_class()
    assert problem in str(error.value)


def test_an_option_cannot_be_called_name() -> None:
    @dataclass
    class Named(Format):
        name: str = "x"

    with pytest.raises(PluginError, match="has an option 'name'"):
        entry("format", "x", Named).component_class()
