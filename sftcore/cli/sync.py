"""``sft sync``: send the metrics of a run to its trackers."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from sftcore.cli.shared import override_trackers


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = "Send the metrics that a run has written to its trackers, which may have missed some."
    parser.add_argument("folder", metavar="DIR", help="the output folder of the run")
    parser.add_argument(
        "--trace", metavar="TRACKER", help="send to this tracker (or several: a,b) instead of all trackers of the run"
    )


def execute(options: Namespace) -> int:
    from sftcore.config.loader import load_trackers
    from sftcore.core.registry import Registry
    from sftcore.tracking.sync import read_run, send_metrics

    folder = Path(options.folder)
    record, document = read_run(folder)
    if options.trace is not None:
        override_trackers(document, options.trace.split(","))
    send_metrics(folder, record, load_trackers(document, Registry.discover()))
    return 0
