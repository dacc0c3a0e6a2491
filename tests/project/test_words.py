"""Words and names that were replaced by those of transformers, PEFT, datasets and PyTorch do not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from jinja2.sandbox import SandboxedEnvironment

ROOT = Path(__file__).parents[2]


class Word(NamedTuple):
    """A word that was replaced."""

    pattern: str
    """Regular expression in which a space matches a line break too; case counts only if it has an upper-case letter."""
    instead: str
    """The words to use."""
    allowed: str = r"(?!)"
    """Regular expression of the contexts in which the word is right."""
    everywhere: bool = True
    """Also in tests/ and bench/."""


WORDS = [
    # how docstrings begin
    Word(r"\btells? whether\b", '"Whether ...", or "Return True if ..."'),
    Word(r"\breturns? (what|whether|how|where|who|why)\b", "the noun: Return the ..."),
    # words that the field does not use
    Word(r"\bmend(s|ed|ing)?\b", "fix"),
    Word(r"\b(bears?|borne|bore)\b", "tolerate, allow"),
    Word(r"\banew\b", "again, from scratch"),
    Word(r"\b(go|goes|gone|going|went) on\b", "resume, continue"),
    Word(r"\bpass(ed|es) over\b", "skip", r"passes over the (data|set)"),
    Word(r"\bput aside\b", "move to"),
    Word(r"\b(held|hold|holds|holding)( |[-_])back\b", "hold out"),
    Word(r"\b(kept|keep|keeps)( |_)out\b", "exclude"),
    Word(r"\b(left|leaves) out\b", "skip, exclude, omit"),
    Word(r"\b(drawn|drew)\b", "sample", everywhere=False),
    Word(r"\b(is|are|was|were) asked for\b", "request, access"),
    Word(r"\bwhoever\b", "the caller, the user"),
    Word(r"\btold\b", "report; message", everywhere=False),
    Word(r"\bis no\b", '"is not a"', r"\b(there|here) is no\b|\bis no (longer|more|better|different)\b"),
    Word(r"\bare no\b", '"are not"', r"\bthere are no\b|\bare no (longer|more)\b"),
    Word(r"\bbeyond every\b", "exceeds the limit of"),
    Word(r"\bshall\b", "must, is to, has to"),
    Word(r"\bhence\b|\bthere(of|in|upon)\b|\bwhereupon\b", "so"),
    Word(r"\bso many\b", "this many, N", r", so many"),
    Word(r"\bheeds?\b|\btakes? no notice\b", "respect, ignore"),
    Word(r"\bwithout a word\b", "silently"),
    Word(r"\bbad luck\b|\bmeans? harm\b", "failures; hostile, malicious"),
    Word(r"\bin good order\b", "cleanly"),
    Word(r"\bsigns? of life\b", "heartbeat"),
    Word(r"\bcomes? further\b", "make progress"),
    Word(r"\bhalf (a|of a) surrogate\b", "a lone surrogate"),
    Word(r"\bstands? twice\b", "appears twice"),
    Word(r"\b(reads?|printed|rounded|laid out|ended) otherwise\b", "differently"),
    Word(r"\bwhat (becomes|became) of\b", "what happens to"),
    Word(r"\bfor ever\b", "forever"),
    Word(r"\bdata sets?\b", "dataset"),
    Word(r"\bwhole checkpoints?\b", "complete checkpoint"),
    Word(r"\bluck\b", "random state, uniform numbers", everywhere=False),
    # terms of the code
    Word(r"\bsupervision\b", "labelling"),
    Word(r"\bhabits?\b", "template profile"),
    Word(r"\bblind(ness|ly)?\b", "content-independent"),
    Word(r"\bcausality\b", "constant prompt"),
    Word(r"\bstand[-_]?ins?\b", "placeholder"),
    Word(r"\bpaint(s|ed|ing)?\b", "merged spans"),
    Word(r"\bremarks?\b", "label warning"),
    Word(r"\bborders?\b", "boundary, offset", r"border(-\w+)*:|border-\w+"),
    Word(r"\brefusals?\b|\brefused rows?\b", "rejected row", allowed='"refusal"'),  # a key of OpenAI's messages
    Word(r"\bbad rows?\b", "malformed row"),
    Word(r"\bkeepers?\b", "checkpoint writer"),
    Word(r"\bproofs?\b|\bproven\b", "equivalence check; isolation check; verified"),
    # classes, functions and constants of old
    Word(
        r"\b(Habits|Remark|Refusals?|Keeper|Evened|AloneError|_Cut|_Begun|Desk|Sketch|Outline|Feed|STAND_IN|FILLER|HEADED"
        r"|PARTED|BEYOND|BLIND|hold_back|keep_out|keep_away|_insist|at_once|left_out)\b",
        "see docs/design.md",
    ),
    Word(r"\bsupervision\.md\b|#bad-rows\b|what-is-refused-and-what-is-told", "docs/labelling.md"),
]

UNSEARCHABLE = {"of", "told", "look", "keep", "done", "take", "say", "fill", "written", "here", "there", "work", "call"}
"""Names of functions that nobody can search for."""

PLACES = ("sftcore", "plugins", "docs", "config", "templates")
SINGLE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml")
SUFFIXES = {".py", ".md", ".yaml", ".json", ".toml", ".css", ".js", ".html", ""}


def files(*places: str) -> list[Path]:
    found = [path for place in places for path in sorted((ROOT / place).rglob("*"))]
    return [
        path
        for path in found
        if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts and path != Path(__file__)
    ]


PROSE = [*files(*PLACES), *(ROOT / name for name in SINGLE)]
TESTS = files("tests", "bench")
TEXTS = {path: path.read_text(encoding="utf-8") for path in [*PROSE, *TESTS]}


def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern, in which a space may also be the end of a line and the beginning of the next comment."""
    exact = re.search(r"(?<!\\)[A-Z]", pattern)
    return re.compile(pattern.replace(" ", r"(?: |\s*\n[\s#>]*)"), 0 if exact else re.IGNORECASE)


def checked(path: Path) -> str:
    """The text of a file, without the rows of the changelog that name what was renamed."""
    text = TEXTS[path]
    if path.name == "CHANGELOG.md":
        text = re.sub(r"^\| .*\|$", "", text, flags=re.MULTILINE)
    return text


def matches(word: Word, text: str) -> Iterator[int]:
    """The lines of *text* that have the word where it is not allowed."""
    allowed = [match.span() for match in compiled(word.allowed).finditer(text)]
    for match in compiled(word.pattern).finditer(text):
        if not any(start <= match.start() < end for start, end in allowed):
            yield text.count("\n", 0, match.start()) + 1


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.pattern[:40])
def test_replaced_words_do_not_come_back(word: Word) -> None:
    lines = [
        f"{path.relative_to(ROOT)}:{line}: {TEXTS[path].splitlines()[line - 1].strip()}"
        for path in [*PROSE, *(TESTS if word.everywhere else [])]
        for line in matches(word, checked(path))
    ]
    assert lines == [], f"use instead: {word.instead}\n" + "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\nReturn what is trained.", 2),
        ("a row that is no\n    object", 1),
        ("# a checkpoint cannot be gone\n# on from", 1),
        ("What goes on is told.", 1),
    ],
)
def test_a_phrase_is_found_across_lines(text: str, line: int) -> None:
    assert line in {number for word in WORDS for number in matches(word, text)}


@pytest.mark.parametrize("text", ["It is no longer there.", "There is no such file.", "Two passes over the data."])
def test_allowed_contexts_are_not_found(text: str) -> None:
    assert [word.pattern for word in WORDS if list(matches(word, text))] == []


def test_functions_have_names_that_can_be_searched() -> None:
    functions = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for path in files("sftcore", "plugins")
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(TEXTS[path]))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in UNSEARCHABLE
        if node.name not in dir(SandboxedEnvironment) and "property" not in map(ast.unparse, node.decorator_list)
    ]
    assert functions == []


def test_every_class_has_a_name_of_its_own() -> None:
    classes: dict[str, list[str]] = {}
    for path in files("sftcore"):
        if path.suffix == ".py":
            for node in ast.parse(TEXTS[path]).body:
                if isinstance(node, ast.ClassDef):
                    classes.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in classes.items() if len(paths) > 1} == {}


def test_every_module_has_a_name_of_its_own() -> None:
    modules: dict[str, list[str]] = {}
    for path in files("sftcore"):
        if (
            path.suffix == ".py" and not path.name.startswith("__") and path.parent.name != "cli"
        ):  # named after commands
            modules.setdefault(path.stem, []).append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in modules.items() if len(paths) > 1} == {}
