"""``sft prepare``: label the data of a run, and cache it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from sftcore.cli.shared import add_config, load, prepare_and_report


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = "Read, label and tokenize the data of a run, which then finds them in the cache. Needs no GPU."
    add_config(parser, "prepare")


def execute(options: Namespace) -> int:
    from sftcore.runs.preparation import pack_if_configured, report_sets
    from sftcore.runtime.console import status

    loaded, registry = load(options)
    prepared = pack_if_configured(loaded, prepare_and_report(loaded, registry))
    report_sets(prepared)
    for folder in dict.fromkeys(str(item.cached.folder) for item in prepared.sources):
        status("cached", folder)
    return 0
