from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest

from sftcore import ConfigError, SftError, further_options
from sftcore.config.document import Document
from sftcore.config.fields import check_options, describe_options, from_mapping
from sftcore.core.components import Component
from sftcore.core.errors import FieldError


@dataclass
class Inner:
    depth: int = 1


@dataclass
class Options(Component):
    """Some options."""

    size: int
    """How large.

    In tokens.
    """
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"
    """Which kind."""
    flag: bool = False
    names: list[str] = field(default_factory=list)
    file: Path | None = None
    inner: Inner | None = None
    anything: Any = None
    several: bool | int | float | str | dict[str, int] | None = None

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size must not be negative")
        if self.size == 7:
            raise FieldError("size", "must not be seven")
        if self.size == 13:
            raise SftError("no luck")


@dataclass
class Child(Options):
    kind: Literal["a", "b"] = "b"
    extra: int = 3
    """Of the child."""


@dataclass
class Foreign:
    """As a library would have it, with an annotation that exists for type checkers only."""

    alpha: int = 1
    dropout: float = 0.0
    config: Nowhere | None = None  # type: ignore[name-defined]  # noqa: F821


@dataclass
class Typed:
    alpha: int = 1
    dropout: float = 0.0
    size: str = "not ours"


@dataclass
class Wrapper(Component):
    size: int = 1
    rest: dict[str, Any] = further_options("a_library:Typed")


@pytest.fixture
def document(tmp_path: Path) -> Document:
    document = Document({}, "c.yaml", tmp_path)
    document._places = {(): "c.yaml:1", ("o",): "c.yaml:2", ("o", "size"): "c.yaml:3", ("o", "sise"): "c.yaml:4"}
    return document


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("a_library")
    module.Typed, module.Foreign = Typed, Foreign  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_library", module)


def test_defaults(document: Document) -> None:
    assert from_mapping(Options, {"size": 2}, document, ("o",)) == Options(
        2, 0.5, "a", False, [], None, None, None, None
    )


@pytest.mark.parametrize(
    ("key", "value", "converted"),
    [
        ("size", "8", 8),
        ("rate", 1, 1.0),
        ("rate", "2e-4", 2e-4),
        ("flag", "yes", True),
        ("names", ("a", "b"), ["a", "b"]),
        ("inner", {"depth": "2"}, Inner(2)),
        ("inner", None, None),
        ("file", None, None),
        ("anything", {"x": [1]}, {"x": [1]}),
    ],
)
def test_a_value_becomes_what_the_annotation_says(document: Document, key: str, value: Any, converted: Any) -> None:
    found = getattr(from_mapping(Options, {"size": 1, key: value}, document, ("o",)), key)
    assert found == converted
    assert type(found) is type(converted)


def test_a_path_is_looked_up_in_the_configurations_folder(
    document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").touch()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert from_mapping(Options, {"size": 1, "file": "there"}, document, ("o",)).file == tmp_path / "there"
    (tmp_path / "work" / "there").touch()
    assert from_mapping(Options, {"size": 1, "file": "there"}, document, ("o",)).file == Path("there")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"sise": 1}, "c.yaml:4: o.sise: unknown key; did you mean 'size'?"),
        ({"size": 1, "zzzz": 1}, "c.yaml:2: o.zzzz: unknown key"),
        ({"size": 1, 3: 1}, "c.yaml:2: o.3: unknown key"),
        ({}, "c.yaml:2: o: the key 'size' is missing"),
        ({"size": "eight"}, "c.yaml:3: o.size: should be a whole number, got 'eight'"),
        ({"size": 1.5}, "c.yaml:3: o.size: should be a whole number, got 1.5"),
        ({"size": None}, "c.yaml:3: o.size: should be a whole number, got null"),
        ({"size": True}, "c.yaml:3: o.size: should be a whole number, got true"),
        ({"size": 1, "rate": "x"}, "c.yaml:2: o.rate: should be a number, got 'x'"),
        ({"size": 1, "rate": False}, "c.yaml:2: o.rate: should be a number, got false"),
        ({"size": 1, "flag": "maybe"}, "c.yaml:2: o.flag: should be true or false, got 'maybe'"),
        (
            {"size": 1, "several": []},
            "c.yaml:2: o.several: should be true or false, a number, text or a mapping, got []",
        ),
        ({"size": 1, "several": {"x": "y"}}, "c.yaml:2: o.several.x: should be a whole number, got 'y'"),
        ({"size": 1, "kind": "c"}, "c.yaml:2: o.kind: should be 'a' or 'b', got 'c'"),
        ({"size": 1, "names": "a"}, "c.yaml:2: o.names: should be a list, got 'a'"),
        ({"size": 1, "names": [1]}, "c.yaml:2: o.names.0: should be text, got 1"),
        ({"size": 1, "file": 3}, "c.yaml:2: o.file: "),
        (
            {"size": 1, "file": "package:nope/x"},
            "c.yaml:2: o.file: package:nope/x: the Python package 'nope' is not inst",
        ),
        ({"size": 1, "inner": {"dept": 1}}, "c.yaml:2: o.inner.dept: unknown key; did you mean 'depth'?"),
        ({"size": 1, "inner": 3}, "c.yaml:2: o.inner: must be a mapping of options, not 3"),
        ({"size": -1}, "c.yaml:2: o: size must not be negative"),
        ({"size": 7}, "c.yaml:3: o.size: must not be seven"),
        ({"size": 13}, "c.yaml:2: o: no luck"),
        (["size"], "c.yaml:2: o: must be a mapping of options, not ['size']"),
        (None, "c.yaml:2: o: must be a mapping of options, not null"),
    ],
)
def test_an_invalid_option_is_an_error_with_its_place(document: Document, values: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_mapping(Options, values, document, ("o",))
    assert str(error.value).startswith(problem)


def test_a_placeholder_of_a_choice_is_filled_in(document: Document) -> None:
    @dataclass
    class Initial:
        how: bool | Literal["plain", "steps_[number of steps]"] = True

    assert from_mapping(Initial, {"how": "steps_12"}, document, ()).how == "steps_12"
    assert from_mapping(Initial, {"how": "plain"}, document, ()).how == "plain"
    for value in ("steps_", "step_12", "plain_1", "steps_1 2"):
        with pytest.raises(ConfigError, match="how: should be "):
            from_mapping(Initial, {"how": value}, document, ())


def test_ready_values_are_not_converted(document: Document) -> None:
    assert from_mapping(Options, {"size": "raw"}, document, ("o",), ready={"size": 4}).size == 4
    assert from_mapping(Options, {}, document, ("o",), ready={"size": 4}).size == 4


@pytest.mark.usefixtures("library")
class TestFurtherOptions:
    def test_further_options_are_options_of_the_component(self, document: Document) -> None:
        made = from_mapping(Wrapper, {"size": 2, "alpha": "7"}, document, ("o",))
        assert made == Wrapper(size=2, rest={"alpha": 7})

    def test_no_further_options(self, document: Document) -> None:
        assert from_mapping(Wrapper, {}, document, ("o",)) == Wrapper(1, {})

    @pytest.mark.parametrize(
        ("values", "problem"),
        [
            ({"dropuot": 0.1}, "o.dropuot: unknown key; did you mean 'dropout'?"),
            ({"sise": 1}, "o.sise: unknown key; did you mean 'size'?"),
            ({"alpha": "x"}, "o.alpha: should be a whole number"),
            ({"size": "x"}, "o.size: should be a whole number"),
            ({"rest": {"alpha": 1}}, "o.rest: unknown key"),
        ],
    )
    def test_further_options_are_checked(self, document: Document, values: dict[str, Any], problem: str) -> None:
        with pytest.raises(ConfigError) as error:
            from_mapping(Wrapper, values, document, ("o",))
        assert problem in str(error.value)

    def test_an_annotation_that_cannot_be_resolved_accepts_anything(self, document: Document) -> None:
        values = {"config": object(), "alpha": "x"}
        assert check_options(Foreign, values, document, ("o",)) == values


def test_further_options_of_a_missing_library_are_an_error(document: Document) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml:2: o: needs a_library:Typed, which cannot be imported"):
        from_mapping(Wrapper, {}, document, ("o",))


def test_options_are_described_by_the_strings_below_them() -> None:
    options = {option.name: option for option in describe_options(Child)}
    assert list(options) == ["size", "rate", "kind", "flag", "names", "file", "inner", "anything", "several", "extra"]
    assert options["size"] == ("size", "int", "required", "How large.\n\nIn tokens.")
    assert options["rate"] == ("rate", "float", "0.5", "")
    assert options["kind"] == ("kind", "Literal['a', 'b']", "b", "Which kind.")
    assert options["extra"].description == "Of the child."
    assert (options["flag"].default, options["names"].default, options["file"].default) == ("false", "[]", "null")


def test_further_options_are_described_by_where_they_come_from() -> None:
    assert describe_options(Wrapper)[-1] == ("...", "", "", "every option of a_library.Typed, under its own name")
