"""``run.json``: what a run was made of and how it ended, so that it can be told apart and repeated."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from sftcore import __version__
from sftcore.config import Loaded
from sftcore.report import now

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors")
"""Libraries whose versions every record holds; a component's own are added from ``requires``."""

_SECRET_KEY = re.compile(r"(^|_|-|\.)(api_?key|key|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
_SPECIAL_TOKEN = re.compile(r"(^|\.)(bos|eos|pad|unk|sep|cls|mask|stop)_token$", re.IGNORECASE)
_URL_LOGIN = re.compile(r"(\w://)[^/\s]+@")
REDACTED = "(redacted)"


def redact(value: Any, key: str = "") -> Any:
    """Return *value* with passwords, keys and tokens replaced: by the name of their key, and in URLs."""
    if value not in (None, "") and _SECRET_KEY.search(key) and not _SPECIAL_TOKEN.search(key):
        return value if isinstance(value, bool) else REDACTED
    if isinstance(value, Mapping):
        return {name: redact(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(item) for item in value]
    return _URL_LOGIN.sub(rf"\1{REDACTED}@", value) if isinstance(value, str) else value


def redact_argument(argument: str) -> str:
    """Return a command-line *argument* with what :func:`redact` would hide in ``KEY=VALUE`` replaced."""
    key, equals, value = argument.partition("=")
    if not equals:
        return str(redact(argument))
    try:
        given = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):
        given = value
    hidden = redact(given, key)
    return (
        argument
        if hidden == given
        else f"{key}={hidden if isinstance(hidden, str) else json.dumps(hidden, default=str)}"
    )


def versions(loaded: Loaded) -> dict[str, str]:
    """Return the versions of sftcore and of the libraries that the run uses."""
    packages = [*LIBRARIES, *(name for entry in loaded.selected.values() for name in entry.component_class().requires)]
    found = {"sftcore": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


LAUNCHER = ("TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "CROSS_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What launchers tell their processes, as far as it says how the run was launched."""


class RunRecord:
    """The record of one run; written when it starts, and again whenever more is known."""

    def __init__(self, folder: Path, loaded: Loaded, argv: list[str], environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.path = folder / "run.json"
        self.content: dict[str, Any] = {
            "status": "running",
            "started": now(),
            "command": [Path(sys.executable).name, "-m", "sftcore", *map(redact_argument, argv)],
            "config": redact(loaded.resolved()),
            "plugins": {
                key: {"component": entry.qualified, "kind": entry.kind, "version": entry.version}
                for key, entry in loaded.selected.items()
            },
            "versions": versions(loaded),
            "host": {"name": platform.node(), "system": platform.platform(), "cpus": os.cpu_count()},
            "world_size": int(environ.get("WORLD_SIZE", "1")),
            "launcher": {name: environ[name] for name in LAUNCHER if name in environ},
        }

    def begin(self, resuming: bool) -> None:
        """Write the record for the first time; what an earlier run left here is moved aside, not lost.

        A run that goes on from a checkpoint in this folder keeps adding to its metrics.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            aside = self.folder / "earlier" / now().replace(":", "-")
            aside.mkdir(parents=True, exist_ok=True)
            for name in (self.path.name, "quarantine.jsonl", *(() if resuming else ("metrics.jsonl",))):
                if (self.folder / name).exists():
                    (self.folder / name).rename(aside / name)
        self.write()

    def write(self, **more: Any) -> None:
        """Add *more* to the record and write it, whole or not at all."""
        self.content.update(more)
        staged = self.path.with_suffix(".json.part")
        staged.write_text(json.dumps(self.content, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
        staged.replace(self.path)

    def end(self, status: str, **more: Any) -> None:
        """Write how the run ended: ``finished``, ``failed`` or ``interrupted``."""
        self.write(status=status, ended=now(), **more)
