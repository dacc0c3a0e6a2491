from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from sftcore import Backend, BackendSpec, ConfigError, Format, Method, SftError, Tracker
from sftcore.config.document import Document
from sftcore.config.loader import LoadedConfig, load_config, load_format
from sftcore.config.schema import EvalFraction, SourceConfig
from sftcore.core.errors import PluginError
from sftcore.core.registry import Broken, Entry, Registry
from sftcore.core.template_file import FileTemplate

Check = Callable[..., LoadedConfig]


@dataclass
class Rows(Format):
    key: str = "text"


@dataclass
class Adapter(Method):
    rank: int = 4


@dataclass
class Log(Tracker):
    project: str = "p"


@dataclass
class Needy(Tracker):
    requires: ClassVar[tuple[str, ...]] = ("sys", "not_installed_a", "not_installed_b")


@dataclass
class Launcher(Backend):
    config: Path | None = None


@dataclass
class OtherLauncher(Launcher):
    pass


@dataclass
class Strict(Backend):
    port: int


@dataclass
class Raises(Backend):
    def __post_init__(self) -> None:
        raise OSError("no such device")


def entry(kind: str, name: str, target: Any, distribution: str = "dist") -> Entry:
    return Entry(kind, name, distribution, "1.0", target)


TEMPLATE = Path(__file__)

REGISTRY = Registry(
    [
        entry("format", "rows", Rows),
        entry("method", "adapter", Adapter),
        entry("method", "gone", "not_installed:Gone"),
        entry("method", "confused", Rows),
        entry("template", "words", TEMPLATE),
        entry("tracker", "log", Log),
        entry("tracker", "needy", Needy),
        entry("tracker", "twin", Log, "one"),
        entry("tracker", "twin", Log, "two"),
        entry("backend", "launcher", BackendSpec(Launcher, environment=[{"LAUNCHER": True}], training_args=["zero"])),
        entry("backend", "other", BackendSpec(OtherLauncher, environment=[{"OTHER": True}])),
        entry("backend", "strict", BackendSpec(Strict, training_args=["port"])),
        entry("backend", "raises", Raises),
        entry("backend", "absent", BackendSpec("not_installed:Absent", [{"LAUNCHER": True}], ["unreachable"])),
    ],
    [Broken("bad-dist", "2.0", "sftcore:x", "ImportError: boom")],
)

BASE = "model: {name_or_path: m}\ndata: {train: a.jsonl}\nmethod: adapter\n"


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Load ``BASE`` with sections replaced, and further text."""
    monkeypatch.chdir(tmp_path)

    def load_text(more: str = "", environ: Mapping[str, str] | None = None, **sections: str) -> LoadedConfig:
        lines = [line for line in BASE.splitlines() if line.split(":")[0] not in sections]
        lines += [f"{key}: {text}" for key, text in sections.items()]
        path = Path("c.yaml")
        path.write_text("\n".join(lines) + "\n" + more)
        return load_config(Document.load(path), REGISTRY, environ or {})

    return load_text


def test_defaults(checked: Check) -> None:
    config = checked().config
    assert config.data.train == [SourceConfig("a.jsonl", "auto", "train")]
    assert (config.data.eval, config.data.max_length, config.data.packing) == (None, 2048, False)
    assert (config.model.dtype, config.model.attn_implementation, config.model.trust_remote_code) == (
        "auto",
        "auto",
        False,
    )
    assert config.method == Adapter(rank=4)
    assert (config.template, config.template_path, config.trackers, config.seed) == (None, None, [], 42)
    assert type(config.backend) is Backend


@pytest.mark.parametrize(
    ("section", "text", "expected"),
    [
        ("mehtod", "adapter", "c.yaml:4: mehtod: unknown key; did you mean 'method'?"),
        ("sede", "1", "c.yaml:4: sede: unknown key; did you mean 'seed'?"),
        ("model", "{name_or_pth: m}", "c.yaml:3: model.name_or_pth: unknown key; did you mean 'name_or_path'?"),
        ("model", "{name_or_path: m, dytpe: auto}", "c.yaml:3: model.dytpe: unknown key; did you mean 'dtype'?"),
        ("data", "{train: a, max_lenght: 1}", "c.yaml:3: data.max_lenght: unknown key; did you mean 'max_length'?"),
        ("data", "{train: {pth: a}}", "c.yaml:3: data.train.pth: unknown key; did you mean 'path'?"),
        (
            "data",
            "\n  train:\n    - a\n    - path: b\n      fromat: rows",
            "c.yaml:7: data.train.1.fromat: unknown key; did you mean 'format'?",
        ),
        (
            "data",
            "{train: a, eval: {fractoin: 0.1}}",
            "c.yaml:3: data.eval.fractoin: unknown key; did you mean 'fraction'?",
        ),
        (
            "data",
            "{train: a, eval: [{path: b, splt: x}]}",
            "c.yaml:3: data.eval.0.splt: unknown key; did you mean 'split'?",
        ),
        (
            "data",
            "{train: {path: a, format: {name: rows, kye: k}}}",
            "c.yaml:3: data.train.format.kye: unknown key; did y",
        ),
        ("method", "{name: adapter, rnak: 1}", "c.yaml:3: method.rnak: unknown key; did you mean 'rank'?"),
        (
            "trackers",
            "[log, {name: log, projcet: x}]",
            "c.yaml:4: trackers.1.projcet: unknown key; did you mean 'project'?",
        ),
        ("backend", "{name: launcher, confgi: x}", "c.yaml:4: backend.confgi: unknown key; did you mean 'config'?"),
        ("template", "{name: words, path: x.json}", "c.yaml:4: template.path: unknown key"),
        ("ask", "{question: [x]}", "c.yaml:4: ask.question: unknown key; did you mean 'questions'?"),
        # wrong types
        ("model", "m", "c.yaml:3: model: must be a mapping of options, not 'm'"),
        ("model", "", "c.yaml:3: model: "),
        (
            "model",
            "{name_or_path: m, dtype: int8}",
            "c.yaml:3: model.dtype: should be 'auto', 'float32', 'bfloat16' or 'f",
        ),
        ("data", "a.jsonl", "c.yaml:3: data: must be a mapping with 'train'"),
        ("data", "{train: 3}", "c.yaml:3: data.train: must be a path or a mapping, not 3"),
        ("data", "{train: []}", "c.yaml:3: data.train: the list of sources is empty"),
        ("data", "{train: a, max_length: 0}", "c.yaml:3: data.max_length: must be at least 1, not 0"),
        ("data", "{train: a, packing: maybe}", "c.yaml:3: data.packing: should be true or false, got 'maybe'"),
        (
            "data",
            "{train: a, eval: {fraction: 1.5}}",
            "c.yaml:3: data.eval.fraction: must be between 0 and 1, not 1.5",
        ),
        ("data", "{train: a, eval: {fraction: 0}}", "c.yaml:3: data.eval.fraction: must be between 0 and 1, not 0"),
        ("data", "{train: a, eval: 0.1}", "c.yaml:3: data.eval: must be a path or a mapping, not 0.1"),
        ("data", "{train: {path: a, limit: 0}}", "c.yaml:3: data.train.limit: must be at least 1, not 0"),
        ("data", "{train: {path: a, limit: 0.5}}", "c.yaml:3: data.train.limit: should be a whole number, got 0.5"),
        ("data", "{train: {path: a, repeat: 0}}", "c.yaml:3: data.train.repeat: must be a number above 0, not 0"),
        ("data", "{train: {path: a, repeat: .inf}}", "c.yaml:3: data.train.repeat: must be a number above 0, not inf"),
        (
            "data",
            "{train: [b, {path: a, share: 0}]}",
            "c.yaml:3: data.train.1.share: must be above 0 and at most 1",
        ),
        ("data", "{train: [b, {path: a, share: 25}]}", "c.yaml:3: data.train.1.share: must be above 0 and at most"),
        (
            "data",
            "{train: [b, {path: a, share: 1}]}",
            "c.yaml:3: data.train: the sum of the shares is 1, which leaves nothing",
        ),
        (
            "data",
            "{train: [{path: b, share: 0.3}, {path: a, share: 0.6}]}",
            "c.yaml:3: data.train: all sources have a share, but their sum is 0.9, not 1",
        ),
        (
            "data",
            "{train: [b, {path: a, share: 0.5, repeat: 2}]}",
            "c.yaml:3: data.train.1.share: sets how often a row is sampled, and so does `repeat`; keep one of them",
        ),
        (
            "data",
            "{train: a, eval: [b, {path: a, share: 0.5}]}",
            "c.yaml:3: data.eval: a source has a share, which is for training data only",
        ),
        ("data", "{train: {path: a, columns: [x]}}", "c.yaml:3: data.train.columns: should be a mapping, got ['x']"),
        ("data", "{train: {path: a, columns: {x: 3}}}", "c.yaml:3: data.train.columns.x: should be text, got 3"),
        (
            "data",
            "{train: {path: a, columns: {x: z, y: z}}}",
            "c.yaml:3: data.train.columns: would rename both 'x' and 'y' to 'z'",
        ),
        (
            "data",
            "{train: a, max_bad_rows: -1}",
            "c.yaml:3: data.max_bad_rows: must be a whole number of rows, or a sh",
        ),
        (
            "data",
            "{train: a, max_bad_rows: 1.5}",
            "c.yaml:3: data.max_bad_rows: must be a whole number of rows, or a s",
        ),
        (
            "data",
            "{train: a, max_bad_rows: .nan}",
            "c.yaml:3: data.max_bad_rows: must be a whole number of rows, or a ",
        ),
        (
            "data",
            "{train: {path: a, format: [rows]}}",
            "c.yaml:3: data.train.format: must be the name of a format, or a mapp",
        ),
        ("method", "{name: adapter, rank: four}", "c.yaml:3: method.rank: should be a whole number, got 'four'"),
        ("method", "{rank: 4}", "c.yaml:3: method: which method? add its 'name' to the options"),
        (
            "method",
            "",
            "c.yaml:3: method: must be the name of a method, or a mapping with 'name' and options, not null",
        ),
        ("data", "{train: a, max_bad_rows: true}", "c.yaml:3: data.max_bad_rows: should be a number, got true"),
        ("data", "{train: a, max_bad_rows: few}", "c.yaml:3: data.max_bad_rows: should be a number, got 'few'"),
        (
            "data",
            "{train: a, train_on: answers}",
            "c.yaml:3: data.train_on: should be 'assistant', 'last_turn', 'all' or a list, got 'answers'",
        ),
        ("data", "{train: a, train_on: [1]}", "c.yaml:3: data.train_on.0: should be "),
        ("data", "\n  train: a\n  packing: true\n  max_length: 0", "c.yaml:6: data.max_length: must be at least 1"),
        ("seed", "true", "c.yaml:4: seed: should be a whole number, got true"),
        ("seed", "null", "c.yaml:4: seed: should be a whole number, got null"),
        ("seed", "x", "c.yaml:4: seed: should be a whole number, got 'x'"),
        ("training_args", "[a]", "c.yaml:4: training_args: should be a mapping, got ['a']"),
        (
            "template_path",
            "package:nope/t.json",
            "c.yaml:4: template_path: package:nope/t.json: the Python package 'nope'",
        ),
        # what is missing
        ("model", "{dtype: auto}", "c.yaml:3: model: the key 'name_or_path' is missing"),
        ("data", "{max_length: 3}", "c.yaml:3: data: the key 'train' is missing"),
        ("data", "{train: a, eval: {}}", "c.yaml:3: data.eval: the key 'fraction' is missing"),
        ("data", "{train: {format: rows}}", "c.yaml:3: data.train: the key 'path' is missing"),
    ],
)
def test_an_invalid_key_is_an_error_with_place_and_nearest_key(
    checked: Check, section: str, text: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as error:
        checked(**{section: text})
    assert str(error.value).startswith(expected)


def test_all_errors_are_told_at_once_in_the_order_of_the_file(checked: Check) -> None:
    document = """
seeed: 1
data: {train: [{path: a, wieght: 1}, {path: b, limit: 0, repeat: 0}, 3], max_lenght: 3, eval: {fraction: 2}}
method: {name: adapter, r: x}
trackers: [lgo, {name: needy}]
backend: strict
model: {dtype: auto, revison: x}
training_args: {port: 1}
template_kwargs: {messages: []}
"""
    Path("all.yaml").write_text(document)
    loaded = Document.load(Path("all.yaml"))
    loaded.override("ask.max_new_tokens=many")
    with pytest.raises(ConfigError) as error:
        load_config(loaded, REGISTRY, {})
    first, *lines = str(error.value).splitlines()
    places = [
        *("2: seeed", "3: data.train.0.wieght", "3: data.train.1.limit", "3: data.train.2", "3: data.max_lenght"),
        *("3: data.eval.fraction", "4: method.r", "5: trackers.0", "5: trackers.1", "6: backend", "7: model.revison"),
        *("7: model", "8: training_args.port", "9: template_kwargs.messages"),
    ]
    found = [line.split(": ", 2)[:2] for line in lines if "failed to load" not in line]
    assert sorted(found[:-1]) == sorted(
        [f"  all.yaml:{place.split(': ')[0]}", place.split(": ")[1]] for place in places
    )
    assert [place for place, _ in found[:-1]] == sorted(place for place, _ in found[:-1])
    assert found[-1] == ["  'ask.max_new_tokens=many'", "ask.max_new_tokens"]
    assert first == f"the configuration has {len(found)} errors:"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("learning_rate: 1", "; it is training_args.learning_rate"),
        ("lr: 1", "; it is training_args.learning_rate"),
        ("base_model: x", "; it is model.name_or_path"),
        ("sequence_len: 8", "; it is data.max_length"),
        ("datasets: []", "; it is data.train"),
        ("adapter: x", "; did you mean 'method'?"),
        ("rank: 3", "; it is method.rank"),
        ("adapter_rank: 3", "; it is method.rank"),
        ("xyzzy: 1", ""),
    ],
)
def test_a_key_of_another_place_or_another_framework_is_told_its_name_here(
    checked: Check, text: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as error:
        checked(text)
    assert str(error.value) == f"c.yaml:4: {text.split(':')[0]}: unknown key{hint}"


@pytest.mark.parametrize(
    ("section", "text", "key"),
    [
        ("model", "{name_or_path: $HOME/m}", "model.name_or_path"),
        ("data", "{train: '${ROWS}'}", "data.train"),
        ("data", "{train: [{path: a/$X.jsonl}]}", "data.train.0.path"),
        ("data", "{train: a, eval: $X}", "data.eval"),
        ("training_args", "{output_dir: $OUT}", "training_args.output_dir"),
        ("training_args", "{resume_from_checkpoint: $OUT/checkpoint-2}", "training_args.resume_from_checkpoint"),
        ("template_path", "$X/t.jinja", "template_path"),
        ("backend", "{name: launcher, config: $X.json}", "backend.config"),
    ],
)
def test_a_path_with_variables_is_an_error(checked: Check, section: str, text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f": {key}: '") + ".*': variables are not expanded here; write"):
        checked(**{section: text})


@pytest.mark.parametrize("url", ["s3://bucket/a.jsonl", "https://host/a.jsonl", "hf://datasets/a/b", "file:///a.jsonl"])
def test_a_url_is_an_error(checked: Check, url: str) -> None:
    with pytest.raises(ConfigError, match=f"data.train: '{url}': a URL cannot be read; name a local file or folder"):
        checked(data=f"{{train: '{url}'}}")


def test_a_file_with_a_dollar_in_its_name_can_be_named(checked: Check) -> None:
    Path("a$b.jsonl").touch()
    assert checked(data="{train: a$b.jsonl}").config.data.train[0].path == "a$b.jsonl"


@pytest.mark.parametrize("missing", ["model", "data", "method"])
def test_a_section_is_missing(missing: str) -> None:
    raw = {key: value for key, value in yaml.safe_load(BASE).items() if key != missing}
    with pytest.raises(ConfigError, match=f"<config>: the key '{missing}' is missing"):
        load_config(Document(raw), REGISTRY, {})


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("a", [SourceConfig("a")]),
        ("[a, {path: b, split: test}]", [SourceConfig("a"), SourceConfig("b", split="test")]),
        ("{path: a, format: rows}", [SourceConfig("a", Rows())]),
        ("[{path: a, format: {name: dist/rows, key: k}}]", [SourceConfig("a", Rows("k"))]),
        ("{path: a, limit: 3, repeat: 2, columns: {x: y}}", [SourceConfig("a", limit=3, repeat=2, columns={"x": "y"})]),
    ],
)
@pytest.mark.parametrize("section", ["train", "eval"])
def test_sources(checked: Check, section: str, text: str, sources: list[SourceConfig]) -> None:
    loaded = checked(data=f"{{train: x, {section}: {text}}}" if section == "eval" else f"{{train: {text}}}")
    assert getattr(loaded.config.data, section) == sources
    chosen = [f"data.{section}.{index}.format" for index, item in enumerate(sources) if item.format != "auto"]
    assert [key for key in loaded.selected if key.startswith("data")] == chosen


def test_a_fraction_of_the_rows_is_held_out(checked: Check) -> None:
    assert checked(data="{train: a, eval: {fraction: 0.25}}").config.data.eval == EvalFraction(0.25)
    assert checked(data="{train: a, eval: null}").config.data.eval is None


@pytest.mark.parametrize(
    "shares", [["0.25"], ["0.25", "0.5"], ["0.4", "0.6"], ["0.333", "0.333", "0.334"], ["0.3333"] * 3]
)
def test_shares(checked: Check, shares: list[str]) -> None:
    sources = [f"{{path: a, share: {share}}}" for share in shares] + (
        [] if len(shares) == 3 or "0.6" in shares else ["b"]
    )
    config = checked(data=f"{{train: [{', '.join(sources)}]}}").config
    assert [source.share for source in config.data.train if source.share] == list(map(float, shares))


@pytest.mark.parametrize("most", [0, 1, 100, 0.01, 0.999])
def test_max_bad_rows_is_a_number_or_a_share(checked: Check, most: float) -> None:
    assert checked(data=f"{{train: a, max_bad_rows: {most}}}").config.data.max_bad_rows == most


@pytest.mark.parametrize(
    ("text", "trackers"),
    [
        ("", []),
        ("[]", []),
        ("log", [Log()]),
        ("{name: log, project: x}", [Log("x")]),
        ("[log, {name: dist/log, project: x}]", [Log(), Log("x")]),
    ],
)
def test_trackers(checked: Check, text: str, trackers: list[Log]) -> None:
    loaded = checked(trackers=text)
    assert loaded.config.trackers == trackers
    assert [key for key in loaded.selected if "tracker" in key] == [f"trackers.{i}" for i in range(len(trackers))]


def test_a_template_that_is_a_file(checked: Check) -> None:
    assert checked(template="words").config.template == FileTemplate(TEMPLATE)
    assert checked(template="null").config.template is None


@pytest.mark.parametrize(
    ("environ", "backend"), [({}, Backend), ({"LAUNCHER": "1"}, Launcher), ({"OTHER": "1"}, OtherLauncher)]
)
def test_backend_auto_recognises_the_launcher(checked: Check, environ: dict[str, str], backend: type[Backend]) -> None:
    for text in ("", "backend: auto\n"):
        assert type(checked(text, environ=environ).config.backend) is backend


def test_backend_auto_is_an_error_if_two_backends_recognise_the_launcher(checked: Check) -> None:
    both = {"LAUNCHER": "1", "OTHER": "1"}
    problem = r"backend: several backends recognise the launcher of this process \(dist/launcher, dist/other\)"
    with pytest.raises(ConfigError, match=problem):
        checked(environ=both)
    assert type(checked(backend="launcher", environ=both).config.backend) is Launcher


def test_a_training_argument_that_a_backend_sets_is_an_error(checked: Check) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml:5: training_args\.zero: is set by the backend 'launcher'"):
        checked("training_args:\n  zero: 1\n")
    assert checked("training_args: {unreachable: 1}\n").config.training_args == {"unreachable": 1}


@pytest.mark.parametrize(
    ("section", "text", "expected"),
    [
        (
            "method",
            "gone",
            "the method 'gone' of dist 1.0 cannot be loaded: ModuleNotFoundError: No module named 'not_inst",
        ),
        ("method", "confused", "the method 'confused' of dist 1.0 is <class"),
        ("method", "adaptor", "no installed plugin offers the method 'adaptor'; did you mean 'adapter'? (installed: "),
        ("method", "rows", "no installed plugin offers the method 'rows'"),
        ("trackers", "twin", "the tracker 'twin' is ambiguous; write one of: one/twin, two/twin"),
    ],
)
def test_a_broken_component_is_an_error_only_when_it_is_selected(
    checked: Check, section: str, text: str, expected: str
) -> None:
    with pytest.raises(PluginError) as error:
        checked(**{section: text})
    assert re.match(rf"c\.yaml:[34]: {section}", str(error.value))
    assert expected in str(error.value)


def test_the_error_for_an_unknown_component_lists_the_broken_plugins(checked: Check) -> None:
    with pytest.raises(PluginError, match=r"bad-dist 2\.0 failed to load \(sftcore:x\): ImportError: boom"):
        checked(method="xyz")


def test_an_ambiguous_name_works_with_its_distribution(checked: Check) -> None:
    loaded = checked(trackers="[two/twin]")
    assert loaded.selected["trackers.0"].distribution == "two"


def test_a_component_with_missing_packages_is_an_error_that_names_them(checked: Check) -> None:
    with pytest.raises(
        ConfigError, match=r"trackers\.0: the tracker 'needy' needs .* pip install not_installed_a not_in"
    ):
        checked(trackers="[needy]")


@pytest.mark.parametrize("text", ["t.json", "package:sftcore_templates/__init__.py"])
def test_paths_are_found(checked: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "t.json").touch()
    document_folder = checked().document.folder
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    raw = {**yaml.safe_load(BASE), "template_path": text, "backend": {"name": "launcher", "config": text}}
    config = load_config(Document(raw, folder=document_folder), REGISTRY, {}).config
    assert config.template_path is not None
    assert config.template_path.is_file()
    assert isinstance(config.backend, Launcher)
    assert config.backend.config == config.template_path


def test_a_missing_template_file_is_an_error(checked: Check) -> None:
    with pytest.raises(SftError, match=r"c\.yaml:4: template_path: the file nope\.json does not exist"):
        checked(template_path="nope.json")


def test_a_template_file_by_its_path(checked: Check, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(TEMPLATE.read_bytes())
    path = str(tmp_path / "t.json")
    loaded = checked(template=path)
    assert loaded.config.template == FileTemplate(Path(path))
    assert loaded.resolved()["template"] == path


FULL = """\
model: {name_or_path: m, revision: v1}
data:
  train: [a.jsonl, {path: b.jsonl, format: {name: rows, key: k}}]
  eval: {path: c.jsonl, format: rows}
method: {name: adapter, rank: 8}
template: words
template_path: t.json
trackers: [log, {name: one/twin, project: x}]
backend: {name: launcher, config: t.json}
ask: {questions: ["Who?"]}
training_args: {learning_rate: 2e-4, save_strategy: "no", lr_scheduler_kwargs: {a: [1, 2]}}
"""


@pytest.mark.parametrize("text", [BASE, FULL, BASE.replace("a.jsonl", "a.jsonl, eval: {fraction: 0.1}")])
def test_the_resolved_configuration_is_one_that_can_be_loaded(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").touch()
    document = Document(yaml.safe_load(text), folder=tmp_path)
    resolved = load_config(document, REGISTRY, {}).resolved()
    again = yaml.safe_load(yaml.safe_dump(resolved))  # also: it is plain data
    assert load_config(Document(again), REGISTRY, {}).resolved() == resolved == again


def test_the_resolved_configuration_holds_every_default() -> None:
    resolved = load_config(Document(yaml.safe_load(BASE)), REGISTRY, {}).resolved()
    assert resolved["method"] == {"name": "dist/adapter", "rank": 4}
    [source] = resolved["data"]["train"]
    assert source.items() >= {"path": "a.jsonl", "format": "auto", "split": "train", "weight": 1.0}.items()
    assert {source[key] for key in ("train_on", "train_on_stop", "reasoning", "context", "truncation")} == {None}
    assert resolved["data"]["truncation"] == "drop_turns"
    assert (resolved["backend"], resolved["trackers"], resolved["template"], resolved["seed"]) == ("auto", [], None, 42)


def load_lora(**options: Any) -> LoadedConfig:
    document = Document({**yaml.safe_load(BASE), "method": {"name": "lora", **options}})
    return load_config(document, Registry.discover(), {})


def test_options_of_peft() -> None:
    loaded = load_lora(use_dora=True, lora_dropout=0.1, r=8, init_lora_weights="pissa")
    resolved = loaded.resolved()
    wanted = {"name": "sftcore/lora", "r": 8, "lora_alpha": 32, "use_dora": True, "init_lora_weights": "pissa"}
    assert {key: resolved["method"][key] for key in wanted} == wanted
    assert "peft" not in resolved["method"]
    assert load_config(Document(resolved), Registry.discover(), {}).resolved() == resolved


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"r": "eight"}, "method.r: should be a whole number, got 'eight'"),
        ({"lora_dropuot": 0.1}, "method.lora_dropuot: unknown key; did you mean 'lora_dropout'?"),
        ({"use_dora": "maybe"}, "method.use_dora: should be true or false"),
        ({"peft": {}}, "method.peft: unknown key"),
    ],
)
def test_options_of_peft_are_checked(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_lora(**options)
    assert expected in str(error.value)


@pytest.mark.parametrize("keys", ["data.train_on", "data.train.0.train_on"])
def test_an_empty_train_on_is_an_error(keys):
    document = Document({"model": {"name_or_path": "x"}, "method": "adapter", "data": {"train": [{"path": "a.jsonl"}]}})
    document.set(tuple(int(key) if key.isdigit() else key for key in keys.split(".")), [], "here")
    with pytest.raises(ConfigError, match="train_on: the list of roles is empty"):
        load_config(document, REGISTRY, {})


def test_a_source_overrides_the_keys_of_data():
    train = [{"path": "a.jsonl", "train_on": "last_turn", "weight": 0.5}, {"path": "b.jsonl"}]
    data = {"train": train, "reasoning": "mask", "max_length": 7}
    config = load_config(
        Document({"model": {"name_or_path": "x"}, "method": "adapter", "data": data}), REGISTRY, {}
    ).config.data
    one, other = (config.policy(source) for source in config.train)
    assert (one.train_on, one.weight, one.reasoning, one.max_length) == ("last_turn", 0.5, "mask", 7)
    assert (other.train_on, other.weight, other.reasoning, other.max_length) == ("assistant", 1.0, "mask", 7)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("data.max_length=0", "'data.max_length=0': data.max_length: must be at least 1, not 0"),
        ("data.eval.fraction=2", "'data.eval.fraction=2': data.eval.fraction: must be between 0 and 1, not 2"),
        ("data.eval.fractoin=2", "'data.eval.fractoin=2': data.eval.fractoin: unknown key"),
        ("data.eval.path=[]", "'data.eval.path=[]': data.eval.path: should be text, got []"),
        ("data.eval.split=x", "the configuration has 2 errors:\n  'data.eval.split=x': data.eval.split: unknown"),
        ("ask.x.y=1", "'ask.x.y=1': ask.x: unknown key"),
        ("packing=true", "'packing=true': packing: unknown key; it is data.packing"),
        ("dta.train=x", "'dta.train=x': dta: unknown key; did you mean 'data'?"),
        ("backend.x=1", "'backend.x=1': backend: which backend? add its 'name' to the options"),
    ],
)
def test_an_error_in_an_override_names_the_override(assignment: str, expected: str) -> None:
    document = Document({"model": {"name_or_path": "x"}, "method": "adapter", "data": {"train": "a"}}, "c.yaml")
    document._places = {(): "c.yaml:1", ("data",): "c.yaml:2", ("data", "train"): "c.yaml:3"}
    document.override(assignment)
    with pytest.raises(ConfigError) as error:
        load_config(document, REGISTRY, {})
    assert str(error.value).startswith(expected)


@dataclass
class Demanding(Format):
    key: str


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("demanding", r"^c\.yaml:2: data\.train\.0\.format: the key 'key' is missing$"),
        (
            "gone",
            r"^c\.yaml:2: data\.train\.0\.format: the format 'gone' of dist 1\.0 cannot be loaded: ModuleNotFound",
        ),
    ],
)
def test_format_auto_names_the_place_where_the_format_that_fits_cannot_be_used(checked, name: str, error: str) -> None:
    registry = Registry([entry("format", "demanding", Demanding), entry("format", "gone", "not_installed:Gone")])
    loaded = checked()
    with pytest.raises(SftError, match=error):
        load_format(name, ("data", "train", 0), loaded, registry)
    assert loaded.selected.keys() == {"method"}


def test_format_auto_is_noted_as_selected(checked: Check) -> None:
    loaded = checked()
    assert load_format("rows", ("data", "train", 0), loaded, REGISTRY) == Rows()
    assert loaded.selected["data.train.0.format"].name == "rows"
