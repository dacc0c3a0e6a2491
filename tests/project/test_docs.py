"""The documentation says what the code says."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from sftcore.config import schema
from sftcore.config.fields import describe_options
from sftcore.core import hookspecs
from sftcore.core.registry import Entry, Registry
from sftcore.core.template_file import _KEYS
from sftcore.data.tables.account import Account
from sftcore.data.tables.summary import Summary
from sftcore.labelling import Remark
from sftcore.runs.record import RunRecord

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
BUILT_IN = [entry for entry in Registry.discover().entries if entry.distribution == "sftcore"]
HOOKS = [name for name in vars(hookspecs) if name.startswith("register_")]
SECTIONS = (
    schema.Config,
    schema.ModelConfig,
    schema.DataConfig,
    schema.SourceConfig,
    schema.EvalFraction,
    schema.AskConfig,
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def plain(text: str) -> str:
    return re.sub(r"[`\\]", "", text)


def outside_blocks(text: str) -> str:
    return BLOCK.sub("", text)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_its_signature(hook):
    signature = inspect.signature(getattr(hookspecs, hook))
    assert f"\ndef {hook}{signature}:\n".replace("'", "") in page("docs/plugins.md")


@pytest.mark.parametrize("entry", BUILT_IN, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_every_built_in_and_its_options_are_on_its_page(entry: Entry):
    text = page(f"docs/{entry.kind}s.md")
    assert f"`{entry.name}`" in text
    assert f"`{entry.name}`" in page("README.md")
    if isinstance(entry.target, Path):
        return
    rows = {plain(line) for line in text.splitlines() if line.startswith("| `")}
    for option in describe_options(entry.component_class()):
        if option.name == "...":
            assert plain(option.description.split()[3].rstrip(",")) in plain(text)
        else:
            row = f"| {option.name} | {option.type} | {option.default} | {option.description} |"
            assert plain(row) in rows, f"not in docs/{entry.kind}s.md: {row}"


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_key_is_in_the_configuration_page(section):
    for field in fields(section):
        assert re.search(rf"^\| `{field.name}` \|", page("docs/config.md"), re.MULTILINE), field.name


@pytest.mark.parametrize("section", [Summary, Account], ids=lambda section: section.__name__)
def test_every_key_of_the_record_is_in_the_configuration_page(section):
    text = page("docs/config.md")
    record = text[text.index("## run.json") : text.index("## Errors")]
    missing = {field.name for field in fields(section) if f"`{field.name}`" not in record}
    assert missing == set()
    assert set(re.findall(r'^            "(\w+)":', inspect.getsource(RunRecord.__init__), re.MULTILINE)) <= set(
        re.findall(r"`(\w+)`", record)
    )


def test_every_remark_is_on_its_page_as_it_is_told():
    rows = {plain(line) for line in page("docs/supervision.md").splitlines() if line.startswith("| `")}
    assert {f"| {remark.name.lower()} | {plain(remark.value)} |" for remark in Remark} <= rows


def test_training_arguments_are_in_the_configuration_page():
    training_args = pytest.importorskip("sftcore.training.arguments")
    rows = re.findall(r"^\| (`.*?) \|", page("docs/config.md"), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    defaults = set(re.findall(r'^        "(\w+)":', inspect.getsource(training_args._defaults), re.MULTILINE))
    assert len(defaults) > 5
    assert {*training_args._ELSEWHERE, *defaults} <= named


def test_every_key_of_a_template_file_is_on_its_page():
    rows = set(re.findall(r"^\| `(\w+)` \|", page("docs/templates.md"), re.MULTILINE))
    assert rows >= _KEYS


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_blocks(path.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        goal = (path.parent / name) if name else path
        assert goal.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", outside_blocks(goal.read_text(encoding="utf-8")), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


def test_the_chinese_readme_is_a_twin():
    def shape(text: str) -> tuple[list[str], list[str], list[str]]:
        blocks = [
            # comments and the words in the picture are translated, all else is the same
            (tag, "" if tag == "mermaid" else re.sub(r"\s*#.*", "", code))
            for tag, code in BLOCK.findall(text)
        ]
        prose = outside_blocks(text)
        links = [link for link in re.findall(r"\]\(([^)]+)\)", prose) if not link.startswith("README")]
        headings = [heading.split()[0] for heading in re.findall(r"^#+ ", prose, re.MULTILINE)]
        return blocks, headings, links

    english, chinese = shape(page("README.md")), shape(page("README_zh.md"))
    assert len(english[0]) > 5
    for ours, theirs in zip(english, chinese, strict=True):
        assert ours == theirs
