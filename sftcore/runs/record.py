"""``run.json``: what a run was made of and how it ended, so that it can be told apart and repeated."""

from __future__ import annotations

import json
import os
import platform
import secrets
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sftcore import __version__
from sftcore.config.loader import LoadedConfig
from sftcore.runtime.console import now
from sftcore.runtime.paths import earlier_folder
from sftcore.runtime.redaction import redact, redact_words
from sftcore.runtime.signals import LAUNCH

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors")
"""Libraries whose versions every record holds; a component's own are added from ``requires``."""


def versions(loaded: LoadedConfig) -> dict[str, str]:
    """Return the versions of sftcore and of the libraries that the run uses."""
    packages = [*LIBRARIES, *(name for entry in loaded.selected.values() for name in entry.component_class().requires)]
    found = {"sftcore": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


LAUNCHER = (
    LAUNCH,
    "TORCHELASTIC_RUN_ID",
    "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE",
    "CROSS_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""What launchers tell their processes, as far as it says how the run was launched."""


class RunRecord:
    """The record of one run; written when it starts, and again whenever more is known."""

    def __init__(self, folder: Path, loaded: LoadedConfig, argv: list[str], environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.path = folder / "run.json"
        self.begun = False
        self.content: dict[str, Any] = {
            "id": new_id(),
            "status": "running",
            "started": now(),
            "command": [Path(sys.executable).name, "-m", "sftcore", *redact_words(argv)],
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

    def begun_before(self) -> bool:
        """Tell whether ranks of this launch have begun this run before: their launcher has started all of them anew."""
        launch = self.content["launcher"].get(LAUNCH)
        return launch is not None and launch == _read(self.path).get("launcher", {}).get(LAUNCH)

    def begin(self, resuming: bool) -> None:
        """Write the record for the first time; what an earlier run left here is moved aside, not lost.

        A run that goes on from a checkpoint in this folder keeps its id, and keeps adding to its metrics.
        """
        self.begun = True
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            if resuming:
                self.content["id"] = earlier_id(self.path) or self.content["id"]
            earlier = earlier_folder(self.folder)
            earlier.mkdir(parents=True, exist_ok=True)
            for name in (self.path.name, "quarantine.jsonl", *(() if resuming else ("metrics.jsonl",))):
                if (self.folder / name).exists():
                    (self.folder / name).rename(earlier / name)
        self.write()

    def write(self, **more: Any) -> None:
        """Add *more* to the record and write it without secrets, whole or not at all."""
        self.content.update(more)
        staged = self.path.with_suffix(".json.part")
        staged.write_text(
            json.dumps(redact(self.content), indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
        )
        staged.replace(self.path)

    def end(self, status: str, **more: Any) -> None:
        """Write how the run ended: ``finished``, ``failed`` or ``interrupted``."""
        self.write(status=status, ended=now(), **more)


def new_id() -> str:
    """Return an id that no other run has, of letters and digits that every tracker takes; no generator is asked."""
    return secrets.token_hex(8)


def earlier_id(path: Path) -> str | None:
    """Return the id of the run whose record is at *path*, if it can be read and has one."""
    found = _read(path).get("id")
    return found if isinstance(found, str) else None


def _read(path: Path) -> dict[str, Any]:
    """Return the record at *path*; empty if it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
