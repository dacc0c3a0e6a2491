"""``sft sync``: send the metrics that a run has written to trackers that missed them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sftcore.config.document import Document
from sftcore.config.loader import load_trackers
from sftcore.core.errors import ConfigError, SftError
from sftcore.core.registry import Registry
from sftcore.runtime.console import status
from sftcore.runtime.redaction import REDACTED
from sftcore.tracking.group import METRICS, TrackerGroup

SYNC_LIMIT = 600
"""Seconds that trackers may take to send all metrics."""


class MetricsSync:
    """The metrics of the run in *folder*, to be sent again.

    Attributes:
        document: its trackers, as configured; may be changed before :meth:`send`.
    """

    def __init__(self, folder: Path) -> None:
        """Read the record of the run.

        Raises:
            ConfigError: *folder* is not that of a run, or has no metrics.
        """
        self.folder = folder
        path = folder / "run.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            self.content: dict[str, Any] = content
            trackers = content["config"]["trackers"]
        except FileNotFoundError:
            raise ConfigError(f"{folder} is not the output folder of a run: it has no run.json") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} cannot be read: {type(error).__name__}: {error}") from None
        if not (folder / METRICS).exists():
            raise ConfigError(f"{folder} has no {METRICS}: nothing was logged")
        self.document = Document({"trackers": [_without_redacted(item) for item in trackers]}, str(path), folder)

    def send(self, registry: Registry) -> None:
        """Send all metrics to the trackers of the document.

        Raises:
            SftError: it has no tracker, or one failed.
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
        if missed := group.finish(content.get("error"), SYNC_LIMIT):
            raise SftError(f"not everything was sent to {' and '.join(missed)}")
        status("sent", f"{self.folder / METRICS} to {' and '.join(name for name, _ in trackers)}")


def _without_redacted(reference: dict[str, Any]) -> dict[str, Any]:
    """The *reference* to a tracker without its secret options: the environment may have them."""
    return {key: value for key, value in reference.items() if value != REDACTED}
