"""Hostile templates: each ends in one error, soon, and without an effect."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sftcore.labelling.rendering.renderer import ChatTemplate

from ...sizes import SIZE
from .hostile import ALL, MESSAGES, TOOLS, Hostile

Results = dict[str, dict[str, Any]]
Once = Callable[[str, Callable[[Path], None]], Path]
"""The fixture ``once``."""

NAMES = [*ALL][:: 8 if SIZE == "fast" else 1]
"""In the fast tests every eighth."""


def run(renderer: str) -> Results:
    program = Path(__file__).parent / "hostile.py"
    done = subprocess.run([sys.executable, str(program), renderer, *NAMES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results.keys() == {*NAMES}
    return dict(results)


def results_of(renderer: str, once: Once) -> Results:
    folder = once(f"hostile-{renderer}", lambda part: (part / "results.json").write_text(json.dumps(run(renderer))))
    return dict(json.loads((folder / "results.json").read_text()))


@pytest.fixture(scope="module", params=[pytest.param("rendered", marks=pytest.mark.slow), "traced"])
def ours(request: pytest.FixtureRequest, once: Once) -> Results:
    """What came of each template in our renderer, alone and as labelling uses it."""
    return results_of(request.param, once)


@pytest.fixture(scope="module")
def unprotected(once: Once) -> Results:
    """What came of each in plain Jinja."""
    return results_of("unprotected", once)


@pytest.mark.parametrize("name", NAMES)
def test_it_ends_in_an_error(ours: Results, name: str) -> None:
    case, result = ALL[name], ours[name]
    assert "killed" not in result, f"it was still running: {result['killed']}"
    if result["error"]:
        assert result["error"][0] in ("RowError", "ConfigError", "InvalidTemplateError"), result
        assert "MemoryError" not in result["error"], "only the limit of the test stopped it"
        assert 0 < result["told_length"] < 2000, "what is told is for a person to read"
    else:
        assert case.harmless is not None, f"no error, but {result['output']!r}"
        assert result["output"] == case.harmless
    assert result["cpu"] < 2
    assert result["grown"] < 400 * 2**20, f"it took {result['grown'] >> 20} MiB"
    assert not result["changed"]
    assert not result["touches"]
    assert not result["files"]
    assert not result["leak"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if ALL[name].harm != "nothing"])
def test_it_would_do_harm(unprotected: Results, name: str) -> None:
    """So that no template above is refused for a slip of ours in writing it."""
    assert does_harm(ALL[name], unprotected[name]), unprotected[name]


def does_harm(case: Hostile, result: dict[str, Any]) -> bool:
    """Whether *case* did what it is meant to do."""
    killed = result.get("killed") == "SIGPROF"
    if case.harm == "time":
        return killed
    if case.harm == "memory":
        return "killed" in result or "MemoryError" in result["error"] or result["grown"] > 128 * 2**20
    if killed:
        return False
    if case.harm == "breaks out":
        return "pwned" in result["files"] or result["leak"]
    if case.harm == "shows":
        return bool(result["output"])
    if case.harm == "changes":
        return bool(result["changed"])
    return bool(result["error"]) and not result["error"][0].startswith(("Template", "Undefined", "Security"))


def test_there_are_many_of_each_kind() -> None:
    harms = [case.harm for case in ALL.values()]
    assert min(harms.count(harm) for harm in ("breaks out", "shows", "changes", "memory", "time", "crash")) >= 10


def test_a_template_gets_nothing_of_ours() -> None:
    """What labelling hands to a template has the attributes of a string, a list and a dictionary, and no more."""
    got: list[Any] = []

    def look(value: Any) -> str:
        got.append(value)
        return ""

    source = "{{ look(messages) }}{{ look(messages[0]) }}{{ look(messages[0].content) }}"
    ChatTemplate(source + "{{ look(messages[0].content[1:]) }}").trace(MESSAGES, TOOLS, True, look=look)
    assert len(got) == 4
    for value, kind in zip(got, (list, dict, str, str), strict=True):
        assert public(value) <= public(kind)


def public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}
