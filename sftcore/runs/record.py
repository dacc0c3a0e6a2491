"""``run.json``: everything that went into a run and how it ended, so that it can be identified and repeated."""

from __future__ import annotations

import json
import os
import platform
import secrets
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sftcore import __version__
from sftcore.config.loader import LoadedConfig
from sftcore.runtime.console import utc_now
from sftcore.runtime.file_io import write_atomically
from sftcore.runtime.paths import move_to_earlier
from sftcore.runtime.rank_control import LAUNCH_ID_VARIABLE
from sftcore.runtime.redaction import redact, redact_argv

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors")
"""Libraries whose versions are recorded, besides those that components require."""

LAUNCHER_VARIABLES = (
    LAUNCH_ID_VARIABLE,
    "TORCHELASTIC_RUN_ID",
    "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE",
    "CROSS_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""Environment variables that show how the run was launched."""


def library_versions(loaded: LoadedConfig) -> dict[str, str]:
    """The versions of sftcore, of Python and of the libraries that the run uses."""
    packages = [*LIBRARIES, *(name for entry in loaded.selected.values() for name in entry.component_class().requires)]
    versions = {"sftcore": __version__, "python": platform.python_version()}
    for package in packages:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


class RunRecord:
    """The record of a run; written when it starts, and again whenever more is known."""

    def __init__(self, folder: Path, loaded: LoadedConfig, argv: list[str], environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.path = folder / "run.json"
        self.started = False
        self.content: dict[str, Any] = {
            "id": secrets.token_hex(8),  # every tracker accepts it, and the random state of the run is not used
            "status": "running",
            "started": utc_now(),
            "command": [Path(sys.executable).name, "-m", "sftcore", *redact_argv(argv)],
            "config": redact(loaded.resolved()),
            "plugins": {
                key: {"component": entry.qualified, "kind": entry.kind, "version": entry.version}
                for key, entry in loaded.selected.items()
            },
            "versions": library_versions(loaded),
            "host": {"name": platform.node(), "system": platform.platform(), "cpus": os.cpu_count()},
            "world_size": int(environ.get("WORLD_SIZE", "1")),
            "launcher": {name: environ[name] for name in LAUNCHER_VARIABLES if name in environ},
        }

    def is_relaunch(self) -> bool:
        """Whether ranks of this launch have started this run before, so that their launcher has restarted them."""
        launch = self.content["launcher"].get(LAUNCH_ID_VARIABLE)
        return launch is not None and launch == self._read().get("launcher", {}).get(LAUNCH_ID_VARIABLE)

    def _read(self) -> dict[str, Any]:
        """The record that the folder has; empty if it cannot be read."""
        try:
            return dict(json.loads(self.path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return {}

    def start(self, resuming: bool) -> None:
        """Write the record for the first time; files of an earlier run in this folder are moved to ``earlier/``.

        A run that resumes from a checkpoint in this folder keeps its id and its metrics. Wherever this is killed, the
        record is there until the new one takes its place, so that no metrics are without one.
        """
        self.started = True
        self.folder.mkdir(parents=True, exist_ok=True)
        if resuming:
            self.content["id"] = self._read().get("id") or self.content["id"]
        names = ("quarantine.jsonl", *(() if resuming else ("metrics.jsonl",)))
        move_to_earlier(self.folder, [self.folder / name for name in names], copied=self.path)
        self.update()

    def update(self, **fields: Any) -> None:
        """Add *fields* to the record and write it without secrets, completely or not at all."""
        self.content.update(fields)
        content = json.dumps(redact(self.content), indent=2, ensure_ascii=False, default=str)
        write_atomically(self.path, content + "\n")

    def finish(self, status: str, **fields: Any) -> None:
        """Write how the run ended: ``finished``, ``failed`` or ``interrupted``."""
        self.update(status=status, ended=utc_now(), **fields)
