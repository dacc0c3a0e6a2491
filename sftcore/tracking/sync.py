"""``sft sync``: send the metrics that a run has written to trackers that missed them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sftcore.config.document import Document
from sftcore.core.components import Tracker
from sftcore.core.errors import ConfigError, SftError
from sftcore.runtime.console import status
from sftcore.runtime.redaction import REDACTED
from sftcore.tracking.group import METRICS, TrackerGroup, describe_run

SYNC_LIMIT = 600  # seconds that trackers may take to send all metrics


def read_run(folder: Path) -> tuple[dict[str, Any], Document]:
    """The record of the run in *folder*, and its trackers as they were configured.

    Raises:
        ConfigError: *folder* is not that of a run, or has no metrics.
    """
    path = folder / "run.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        trackers = [
            {option: value for option, value in tracker.items() if value != REDACTED}  # the environment may have it
            for tracker in record["config"]["trackers"]
        ]
    except FileNotFoundError:
        raise ConfigError(f"{folder} is not the output folder of a run: it has no run.json") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {type(error).__name__}: {error}") from None
    if not (folder / METRICS).exists():
        raise ConfigError(f"{folder} has no {METRICS}: nothing was logged")
    return record, Document({"trackers": trackers}, str(path), folder)


def send_metrics(folder: Path, record: Mapping[str, Any], trackers: Sequence[tuple[str, Tracker]]) -> None:
    """Send all metrics of the run in *folder* to *trackers*.

    Raises:
        SftError: there is no tracker, or one failed.
    """
    if not trackers:
        raise ConfigError("the run has no tracker; name one with --trace TRACKER")
    group = TrackerGroup(trackers, folder)
    group.start(describe_run(record, folder), all_metrics=True)
    if missed := group.finish(record.get("error"), SYNC_LIMIT):
        raise SftError(f"not everything was sent to {' and '.join(missed)}")
    status("sent", f"{folder / METRICS} to {' and '.join(name for name, _ in trackers)}")
