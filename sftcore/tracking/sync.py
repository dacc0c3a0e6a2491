"""``sft sync``: the metrics that a run has written go to trackers that did not get them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sftcore.config.document import Document
from sftcore.config.loader import load_trackers
from sftcore.core.errors import ConfigError, SftError
from sftcore.core.registry import Registry
from sftcore.runtime.console import say
from sftcore.runtime.redaction import REDACTED
from sftcore.tracking.group import METRICS, TrackerGroup

SYNC_LIMIT = 600
"""Seconds that trackers may take to send what is there."""


class Recorded:
    """A run, as its folder tells."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "run.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            self.content: dict[str, Any] = content
            trackers = content["config"]["trackers"]
        except FileNotFoundError:
            raise ConfigError(f"{folder} is no folder of a run: it has no run.json") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} cannot be read: {type(error).__name__}: {error}") from None
        if not (folder / METRICS).exists():
            raise ConfigError(f"{folder} has no {METRICS}: nothing was logged")
        self.document = Document({"trackers": [_known(item) for item in trackers]}, str(path), folder)

    def sync(self, registry: Registry) -> None:
        """Send all metrics to the trackers that the document names.

        Raises:
            SftError: there is none, or one did not take everything.
        """
        trackers = load_trackers(self.document, registry)
        if not trackers:
            raise ConfigError("the run has no tracker; name one with --trace TRACKER")
        content = self.content
        group = TrackerGroup(trackers, self.folder)
        run = {
            "id": content.get("id") or self.folder.name,
            "name": (content.get("training_args") or {}).get("run_name") or self.folder.name,
            "command": content["command"][2:],
            "output_dir": str(self.folder),
            "config": content["config"],
            "versions": content["versions"],
        }
        group.start(run, all_metrics=True)
        group.await_start()
        if missed := group.finish(content.get("error"), SYNC_LIMIT):
            raise SftError(f"not everything was sent to {' and '.join(missed)}")
        say("sent", f"{self.folder / METRICS} to {' and '.join(name for name, _ in trackers)}")


def _known(reference: dict[str, Any]) -> dict[str, Any]:
    """Return the *reference* to a tracker without the options that were secret: the environment may have them."""
    return {key: value for key, value in reference.items() if value != REDACTED}
