"""The documentation says what the code says."""

from __future__ import annotations

import ast
import inspect
import os
import re
import runpy
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

import sftcore.launching
import sftcore.rows
import sftcore.testing
from sftcore.config import loader, schema
from sftcore.config.document import Document
from sftcore.config.fields import describe_options
from sftcore.core import hookspecs
from sftcore.core.errors import SftError
from sftcore.core.registry import Entry, Registry
from sftcore.core.template_file import _KEYS
from sftcore.data.tables.account import Account
from sftcore.data.tables.summary import Summary
from sftcore.labelling import LabelWarning
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
PUBLIC = (sftcore, sftcore.launching, sftcore.rows, sftcore.testing)
PACKAGES = {path.parent.name for path in ROOT.glob("sftcore/*/__init__.py")}
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


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_the_public_api_is_on_the_page_of_plugins(module):
    text = page("docs/plugins.md").partition("## The public API")[2]
    row = re.search(rf"^\| `{module.__name__}` \| (.*?) \|", text, re.MULTILINE)
    assert row is not None
    assert re.findall(r"`(\w+)`", row.group(1)) == [name for name in module.__all__ if not name.startswith("__")]


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


@pytest.mark.parametrize("section", [*SECTIONS, schema.NonFiniteConfig], ids=lambda section: section.__name__)
def test_the_configuration_page_has_the_defaults_of_the_code(section):
    text = page("docs/config.md") + page("docs/reliability.md")
    for option in describe_options(section):
        if "(" in option.default:  # a section of its own
            continue
        default = option.default if option.default == "required" else f"`{option.default}`"
        row = rf"^\| (?:`\w+`, )*`{option.name}`(?:, `\w+`)* \| .* \| {re.escape(default)} \|"
        assert re.search(row, text, re.MULTILINE), (option.name, option.default)


@pytest.mark.parametrize("section", [Summary, Account], ids=lambda section: section.__name__)
def test_every_key_of_the_record_is_in_the_configuration_page(section):
    text = page("docs/config.md")
    record = text[text.index("## run.json") : text.index("## Errors")]
    missing = {field.name for field in fields(section) if f"`{field.name}`" not in record}
    assert missing == set()
    assert set(re.findall(r'^            "(\w+)":', inspect.getsource(RunRecord.__init__), re.MULTILINE)) <= set(
        re.findall(r"`(\w+)`", record)
    )


def test_every_warning_is_on_its_page_as_it_is_told():
    rows = {plain(line) for line in page("docs/labelling.md").splitlines() if line.startswith("| `")}
    assert {f"| {warning.name.lower()} | {plain(warning.text(2))} |" for warning in LabelWarning} <= rows


def test_training_arguments_are_in_the_configuration_page():
    training_args = pytest.importorskip("sftcore.training.arguments")
    rows = re.findall(r"^\| (`.*?) \|", page("docs/config.md"), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    defaults = set(re.findall(r'^        "(\w+)":', inspect.getsource(training_args._defaults), re.MULTILINE))
    assert len(defaults) > 5
    assert {*training_args._NOT_ALLOWED, *defaults} <= named


ERRORS = re.findall(r"^sft: error: '([\w.]+=\S+?)': (.+)$", page("docs/config.md"), re.MULTILINE)


@pytest.mark.parametrize(
    ("override", "message"), [error for error in ERRORS if not error[0].startswith(("training_args.", "model.name"))]
)
def test_errors_of_the_configuration_page_are_printed_like_this(override, message):
    document = Document.load(ROOT / "config" / "finetune.yaml")
    document.override(override)
    with pytest.raises(SftError) as raised:
        loader.load_config(document, Registry.discover(), {})
    assert str(raised.value) == f"'{override}': {message}"


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


def test_the_readme_links_every_page():
    for path in ROOT.glob("docs/*.md"):
        assert f"](docs/{path.name})" in page("README.md"), path.name


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


def layers_of_the_page() -> list[str]:
    """The first block of the section Layers, each line without its description."""
    text = page("docs/design.md")
    block = BLOCK.search(text, text.index("\n## Layers"))
    assert block is not None
    return [re.split(r" {2,}", line)[0] for line in block.group(2).splitlines()]


def layers_of_the_contract() -> list[str]:
    contracts = tomllib.loads(page("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    return [line.replace("sftcore.", "") for line in next(c["layers"] for c in contracts if c["type"] == "layers")]


def test_the_layers_of_the_design_page_are_those_of_the_contract_and_of_the_folders():
    assert layers_of_the_page() == layers_of_the_contract()
    assert set(" | ".join(layers_of_the_page()).split(" | ")) == {"__main__", *PACKAGES}


def modules_named_in(text: str) -> set[str]:
    """Modules and packages that a page names by their path below `sftcore/`."""
    return set(
        re.findall(rf"(?<![\w./-])(?:sftcore/)?((?:{'|'.join(sorted(PACKAGES))})/[\w/]*\w)(?![\w.-]*\.\w)", text)
    )


@pytest.mark.parametrize("name", ["docs/design.md", "docs/glossary.md"])
def test_every_module_that_a_page_names_is_there(name: str):
    modules = modules_named_in(page(name))
    assert len(modules) > 5
    for module in modules:
        path = ROOT / "sftcore" / module
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module


def names_defined_in(path: Path) -> set[str]:
    """Top-level names of a module, and `Class.method` of its classes."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def test_every_function_of_the_table_where_to_look_is_there():
    table = page("docs/design.md").split("### Where to look")[1].split("\n## ")[0]
    cells = [line.split(" | ")[1] for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(cells) > 30
    for cell in cells:
        for module, names in re.findall(r"`([\w/]+)`: ((?:`[\w.]+`(?:, )?)+)", cell):
            folder = ROOT if module.startswith("plugins/") else ROOT / "sftcore"
            missing = {*re.findall(r"`([\w.]+)`", names)} - names_defined_in(folder / f"{module}.py")
            assert not missing, f"{module}: {missing}"


def test_the_number_of_mutants_is_that_of_the_page():
    bugs = runpy.run_path(str(ROOT / "tests" / "mutants" / "bugs.py"))["BUGS"]
    seen = sum(bool(bug.seen) for bug in bugs)
    assert f"| {len(bugs)}, of which {seen} were seen in other projects;" in page("docs/exactness.md")


def test_contributing_has_the_targets_of_the_makefile_with_their_help():
    targets = dict(re.findall(r"^([a-z][a-z-]*):.*?##\s+(.+)$", page("Makefile"), re.MULTILINE))
    setup = {"help", "setup", "setup-dev"}
    rows = dict(re.findall(r"^\| `make ([\w-]+)` \| (.+) \|$", page("CONTRIBUTING.md"), re.MULTILINE))
    assert rows == {name: text for name, text in targets.items() if name not in setup}
    everywhere = {name for path in PAGES for name in re.findall(r"`make ([\w-]+)`", path.read_text(encoding="utf-8"))}
    assert everywhere <= set(targets)


def options_of(command: str) -> set[str]:
    """The options and subcommands that ``sft COMMAND --help`` lists."""
    run = [sys.executable, "-m", "sftcore", *command.split(), "--help"]
    output = subprocess.run(
        run, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "300"}
    ).stdout
    options = " ".join(re.findall(r"^ +(-.*?)(?: {2}|$)", output, re.MULTILINE))
    return {
        *re.findall(r"(?<!\S)--?[a-z][a-z-]*", options),
        *re.findall(r"^ {4}([a-z-]+)(?: |$)", output, re.MULTILINE),
    }


def test_the_configuration_page_has_every_command_with_its_options():
    text = page("docs/config.md")
    block = BLOCK.search(text, text.index("## Command line"))
    assert block is not None
    lines = {re.match(r"sft ([a-z -]*[a-z])", line).group(1): line for line in block.group(2).splitlines()}
    first = {command.split()[0] for command in lines}
    assert first == {option for option in options_of("") if not option.startswith("-")}
    assert {"list", "clean"} == {option for option in options_of("cache") if not option.startswith("-")}
    for command, line in lines.items():
        options = {option for option in options_of(command) if option.startswith("-")} - {"-h", "--help"}
        assert set(re.findall(r"(?<=\[)--?[a-z-]+", line)) == options, command


def test_every_term_of_the_glossary_is_linked_and_has_two_sentences_at_most():
    terms = re.findall(r"^\*\*(.+?)\*\*: (.+)$", page("docs/glossary.md"), re.MULTILINE)
    assert len(terms) >= 12
    assert [term for term, _ in terms] == sorted((term for term, _ in terms), key=str.lower)
    assert [term for term, text in terms if len(re.findall(r"[.!?](?: |$)", text)) > 2] == []
    for name in ("README.md", "README_zh.md", "docs/design.md"):
        assert "glossary.md" in page(name), name


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_file_of_the_repository_that_a_page_names_is_there(path: Path):
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"(?<![\w/.-])(?:tests|bench|config|templates|plugins)/[\w/.-]*\w", text):
        assert (ROOT / name).exists() or any((folder / f"{name}.py").exists() for folder in (ROOT, ROOT / "sftcore")), (
            name
        )
