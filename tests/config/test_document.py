from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sftcore import ConfigError
from sftcore.config.document import Document, Keys

Load = Callable[[str], Document]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)

    def write_and_load(text: str) -> Document:
        Path("c.yaml").write_text(text, encoding="utf-8")
        return Document.load(Path("c.yaml"))

    return write_and_load


NESTED = """\
# a comment
model: {name_or_path: x}
data:
  train:
    - path: a

    - path: b
      format: qa
"""


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        (("model",), "c.yaml:2"),
        (("model", "name_or_path"), "c.yaml:2"),
        (("data", "train"), "c.yaml:4"),
        (("data", "train", 0), "c.yaml:5"),
        (("data", "train", 1, "path"), "c.yaml:7"),
        (("data", "train", 1, "format"), "c.yaml:8"),
        (("data", "train", 1, "absent"), "c.yaml:7"),  # the nearest thing above that is there
        (("absent",), "c.yaml:2"),
        ((), "c.yaml:2"),
    ],
)
def test_the_line_of_every_key(load: Load, keys: Keys, place: str) -> None:
    assert load(NESTED).where(keys) == place


def test_an_error_names_place_and_key(load: Load) -> None:
    assert (
        str(load(NESTED).error(("data", "train", 1, "format"), "is wrong")) == "c.yaml:8: data.train.1.format: is wrong"
    )
    assert str(Document({}).error((), "is wrong")) == "<config>: is wrong"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("2.0e-4", 2e-4),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("1.", 1.0),
        (".inf", math.inf),
        ("12", 12),
        ("-3", -3),
        ("0x1f", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        # YAML 1.1 has booleans, base 60, octal, dates and underscores here
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("1:4", "1:4"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("2026-01-31", "2026-01-31"),
        ("=", "="),
        ('"12"', "12"),
        ("1e5x", "1e5x"),
    ],
)
def test_scalars_follow_yaml_1_2(load: Load, text: str, value: Any) -> None:
    document = load(f"a: {text}\n")
    document.override(f"b={text}")
    for found in document.data.values():
        assert found == value
        assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", {}),
        ("# nothing\n", {}),
        ("a: &x {b: 1}\nc: *x\n", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &x {b: 1, d: 2}\nc: {<<: *x, b: 3}\n", {"a": {"b": 1, "d": 2}, "c": {"b": 3, "d": 2}}),
        ("a: &x {b: 1}\nc: {b: 3, <<: *x}\n", {"a": {"b": 1}, "c": {"b": 3}}),
        ("a: &x {b: 1}\nc: &y {<<: *x, b: 2}\nd: *y\n", {"a": {"b": 1}, "c": {"b": 2}, "d": {"b": 2}}),
        ("a: &x {b: 1}\nc: &y {d: 2}\ne: {<<: [*x, *y]}\n", {"a": {"b": 1}, "c": {"d": 2}, "e": {"b": 1, "d": 2}}),
        ("\ufeffa: 1\n", {"a": 1}),
        ("a: 你好\n", {"a": "你好"}),
    ],
    ids=["empty", "comment", "alias", "merge", "merge last", "merge and alias", "merge two", "bom", "unicode"],
)
def test_what_a_file_holds(load: Load, text: str, data: dict[str, Any]) -> None:
    assert load(text).data == data


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", "c.yaml:3: not valid YAML: the key 'a' appears twice (first in line 1)"),
        ("a:\n  b: 1\n  b: 1\n", "c.yaml:3: not valid YAML: the key 'b' appears twice (first in line 2)"),
        ("a: 1\n2: b\n", "c.yaml:2: the key 2 must be a string; put it in quotes"),
        ("true: b\n", "c.yaml:1: the key True must be a string"),
        ("[a]: b\n", "c.yaml:1: the key "),
        ("- a\n", "c.yaml:1: must be a mapping"),
        ("just words\n", "c.yaml:1: must be a mapping"),
        ("a: 1\nb: &x [*x]\n", "c.yaml:2: an alias that contains itself"),
        ("b: &x {c: {d: *x}}\n", "c.yaml:1: an alias that contains itself"),
        ("a: *nowhere\n", "c.yaml:1: not valid YAML: found undefined alias"),
        ("a: 1\nb: [1, 2\n", "c.yaml:3: not valid YAML: "),
        ("a:\n\tb: 1\n", "c.yaml:2: not valid YAML: "),
        ("a: 1\n---\nb: 2\n", "c.yaml:2: not valid YAML: "),
        ("a: !!python/object:os.system x\n", "c.yaml:1: not valid YAML: could not determine a constructor"),
        ("a: !!int x\n", "c.yaml: not valid YAML: "),
        ("a: \x00\n", "c.yaml: not valid YAML: unacceptable character"),
    ],
)
def test_an_invalid_yaml_file_is_an_error_with_its_line(load: Load, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(text)
    assert str(error.value).startswith(problem)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the configuration file .*nope\.yaml does not exist; name one"):
        Document.load(tmp_path / "nope.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        Document.load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        Document.load(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("text", "assignment", "data"),
    [
        ("", "a.b.c=1", {"a": {"b": {"c": 1}}}),
        ("a: {b: 1, c: 2}", "a.b=x=y", {"a": {"b": "x=y", "c": 2}}),
        ("a: {b: 1}", "a=null", {"a": None}),
        ("a: 1", "a=[1, {b: 2}]", {"a": [1, {"b": 2}]}),
        ("a: null", "a.b=1", {"a": {"b": 1}}),
        ("a: 1", "a=", {"a": None}),
        ("trackers: [x, {name: y}]", "trackers.1.project=p", {"trackers": ["x", {"name": "y", "project": "p"}]}),
        ("trackers: [x]", "trackers.0.project=p", {"trackers": [{"name": "x", "project": "p"}]}),
        ("method: x", "method.r=8", {"method": {"name": "x", "r": 8}}),
        ("data: {train: f}", "data.train.format=qa", {"data": {"train": {"path": "f", "format": "qa"}}}),
        ("data: {eval: f}", "data.eval.format=qa", {"data": {"eval": {"path": "f", "format": "qa"}}}),
        ("data: {train: [f, g]}", "data.train.1.format=qa", {"data": {"train": ["f", {"path": "g", "format": "qa"}]}}),
        (
            "data: {train: {path: f, format: qa}}",
            "data.train.format.x=1",
            {"data": {"train": {"path": "f", "format": {"name": "qa", "x": 1}}}},
        ),
    ],
)
def test_an_override(load: Load, text: str, assignment: str, data: dict[str, Any]) -> None:
    document = load(text)
    document.override(assignment)
    assert document.data == data


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("a", "'a': expected KEY=VALUE"),
        ("=1", "'=1': expected KEY=VALUE"),
        ("--a=1", "'--a=1': expected KEY=VALUE"),
        ("a=[1", "'a=[1': the value is not valid YAML"),
        ("a={b: 1, b: 2}", "'a={b: 1, b: 2}': the value is not valid YAML"),
        ("a=!!int x", "'a=!!int x': the value is not valid YAML"),
        ("n.x=1", "'n.x=1': n has no keys"),
        ("l.x=1", "'l.x=1': l is a list of 2; write l.0 for its first item"),
        ("l.2=1", "'l.2=1': l is a list of 2"),
        ("l.2.x=1", "'l.2.x=1': l is a list of 2"),
        ("l.-1=1", "'l.-1=1': l is a list of 2"),
    ],
)
def test_an_invalid_override_is_an_error(load: Load, assignment: str, problem: str) -> None:
    document = load("n: 1\nl: [{a: 1}, {a: 2}]\n")
    with pytest.raises(ConfigError) as error:
        document.override(assignment)
    assert str(error.value).startswith(problem)
    assert document.data == {"n": 1, "l": [{"a": 1}, {"a": 2}]}


def test_a_failed_override_leaves_no_trace(load: Load) -> None:
    document = load("a: x\nl: [1]\n")
    with pytest.raises(ConfigError):
        document.set(("l", 0, "b"), 1, "--flag")
    assert document.where(("l", 0)) == "c.yaml:2"


def test_the_place_of_an_overridden_key_is_the_argument(load: Load) -> None:
    document = load("method:\n  name: lora\n  r: 8\nseed: 1\n")
    document.override("method.r=x")
    assert document.where(("method", "r")) == "'method.r=x'"
    assert document.where(("method", "name")) == "c.yaml:2"
    document.override("method={name: lora, r: y}")
    assert document.where(("method", "r")) == "'method={name: lora, r: y}'"
    document.set(("seed",), 2, "--seed")
    assert document.where(("seed",)) == "--seed"


def test_relative_paths_are_tried_from_the_file(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").touch()
    document = load("")
    monkeypatch.chdir(tmp_path.parent)
    assert document.locate("rows.jsonl") == tmp_path / "rows.jsonl"
    assert document.locate("absent.jsonl") == Path("absent.jsonl")


def test_an_override_leaves_the_given_mapping_as_it_was() -> None:
    given = {"a": {"b": 1}}
    document = Document(given)
    document.override("a.b=2")
    assert (document.data, given) == ({"a": {"b": 2}}, {"a": {"b": 1}})


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 60 + "]" * 60,
        "a: " + "[" * 100_000,
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefgh")),
    ],
    ids=["nested", "deep", "aliases"],
)
def test_a_document_that_grows_without_measure_is_an_error(load: Load, text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"c.yaml(:\d+)?: (more than 100,000 values|not valid YAML: nested too deeply)"
    ):
        load(text)
