"""Put bugs of the past back, one at a time: each has to turn the tests red.

Usage: python tests/mutants [NAME ...]

The tree is copied, so nothing here changes. A bug counts as found if a test fails because of what it
checks; a test that cannot be run, or a bug that is not valid Python, is an error of the list in ``bugs.py``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from bugs import BUGS, Bug

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("sftcore", "plugins", "templates", "config", "tests", "pyproject.toml")
PACKAGES = {"sftcore_plugins": "plugins", "sftcore_templates": "templates", "sftcore_config": "config"}
AT_ONCE = 2
LIMIT = 300
"""Seconds that the tests of one bug may take."""

ELSEWHERE = 90
"""Exit status where the tests would not see the copy."""

START = f"""
import importlib, pathlib, sys, pytest
for name in ("sftcore", *{list(PACKAGES)}):
    found = pathlib.Path(importlib.import_module(name).__path__[0]).resolve()
    if pathlib.Path.cwd().resolve() not in found.parents:
        print(f"{{name}} is imported from {{found}}, and not from the copy")
        sys.exit({ELSEWHERE})
sys.exit(pytest.main(sys.argv[1:]))
"""

FAILED = re.compile(r"^FAILED tests/([^\[\n]+?)(\[.*| - .*)?$", re.MULTILINE)
SLIP = re.compile(r"^E\s.*\b(NameError|UnboundLocalError|ImportError|ModuleNotFoundError|SyntaxError)\b.*", re.M)
"""What a bug raises that is not written well."""


class Result(NamedTuple):
    """What the tests said: by which they failed, or why they could not be run, and how long it took."""

    killed_by: str
    trouble: str
    seconds: float


def copy(source: Path, folder: Path) -> None:
    """Copy the tree from *source*, with its packages under the names they are installed by."""
    folder.mkdir()
    for name in COPIED:
        path = source / name
        if path.is_dir():
            shutil.copytree(path, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder)
    for package, name in PACKAGES.items():
        (folder / package).symlink_to(name, target_is_directory=True)


def pytest(folder: Path, tests: Sequence[str]) -> Result:
    """Run *tests* of the copy in *folder*, up to the first that fails."""
    options = ["-x", "-q", "-m", "not chaos", "--no-header", "-p", "no:cacheprovider", "--timeout", str(LIMIT // 2)]
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    begin = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", START, *options, *tests],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Result("", f"the tests took more than {LIMIT} s", LIMIT)
    seconds, said = time.monotonic() - begin, done.stdout + done.stderr
    failed = FAILED.search(done.stdout)
    if done.returncode == 1 and failed and not (slip := SLIP.search(done.stdout)):
        return Result(failed[1], "", seconds)
    if done.returncode == 0:
        return Result("", "", seconds)
    trouble = slip[0] if done.returncode == 1 and failed and slip else "\n".join(said.strip().splitlines()[-15:])
    return Result("", f"the tests could not be run (exit status {done.returncode}):\n{trouble}", seconds)


def misfits(source: Path) -> list[str]:
    """The errors of the list: a name that is not unique, or a text that is not there exactly once."""
    names = [bug.name for bug in BUGS]
    wrong = [f"{name}: there are several of this name" for name in sorted(set(names)) if names.count(name) > 1]
    for bug in BUGS:
        path = source / bug.file
        found = path.read_text().count(bug.old) if path.is_file() else 0
        if found != 1:
            wrong.append(f"{bug.name}: the text to change is {found} times in {bug.file}, not once:\n{bug.old}")
        if bug.old == bug.new or not bug.tests:
            wrong.append(f"{bug.name}: changes nothing, or names no tests")
    return wrong


def put_back(bug: Bug, clean: Path, folder: Path) -> Result:
    """Run the tests of *bug* on a copy of the tree *clean* that has it."""
    copy(clean, folder)
    path = folder / bug.file
    path.write_text(path.read_text().replace(bug.old, bug.new))
    result = pytest(folder, bug.tests)
    shutil.rmtree(folder)
    return result


def main(arguments: Sequence[str]) -> int:
    """Put the named bugs back, or all, and return the exit status: 1 if the tests miss one."""
    parser = argparse.ArgumentParser("python tests/mutants", description="Put bugs of the past back, one at a time.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a bug of tests/mutants/bugs.py; by default all")
    names = parser.parse_args(arguments).names
    if unknown := set(names) - {bug.name for bug in BUGS}:
        parser.error(f"there is no bug {', '.join(sorted(unknown))}")
    chosen = [bug for bug in BUGS if not names or bug.name in names]
    with tempfile.TemporaryDirectory(prefix="mutants-") as made:
        temporary = Path(made).resolve()
        clean = temporary / "clean"
        copy(ROOT, clean)
        if wrong := misfits(clean):
            print("tests/mutants/bugs.py no longer fits the code:\n\n" + "\n\n".join(wrong))
            return 2
        begin = time.monotonic()
        before = pytest(clean, list(dict.fromkeys(test for bug in chosen for test in bug.tests)))
        if before.killed_by or before.trouble:
            print(f"without any bug the tests fail already: {before.killed_by or before.trouble}")
            return 2
        print(f"without any bug the tests pass ({before.seconds:.0f} s)\n", flush=True)
        width = max(len(bug.name) for bug in chosen)
        alive: list[str] = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            results = pool.map(lambda bug: put_back(bug, clean, temporary / bug.name), chosen)
            print(f"{'bug':{width}}  {'s':>4}  found by")
            for bug, result in zip(chosen, results, strict=True):
                if not result.killed_by:
                    alive.append(bug.name)
                verdict = result.killed_by or result.trouble or "NOTHING: the tests pass with it"
                print(f"{bug.name:{width}}  {result.seconds:4.0f}  {verdict}", flush=True)
    print(f"\n{len(chosen) - len(alive)} of {len(chosen)} bugs found in {time.monotonic() - begin:.0f} s")
    if alive:
        print(f"not found: {', '.join(alive)}")
    return int(bool(alive))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
