"""Arguments and steps that several commands share."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sftcore.config.document import Document
    from sftcore.config.loader import LoadedConfig
    from sftcore.core.registry import Registry
    from sftcore.data import Prepared


def add_config(parser: ArgumentParser, command: str) -> None:
    """Add ``--config`` to the parser of *command*, which takes ``KEY=VALUE`` too."""
    parser.usage = f"sft {command} [options] [KEY=VALUE ...]"
    text = "YAML file, or package:NAME/file (default: %(default)s)"
    parser.add_argument("--config", default="config/finetune.yaml", metavar="PATH", help=text)


def read_document(options: Namespace) -> Document:
    """Return the configuration file of a command, without overrides."""
    from sftcore.config.document import Document
    from sftcore.runtime.paths import locate

    return Document.load(Path(locate(options.config)))


def load(options: Namespace) -> tuple[LoadedConfig, Registry]:
    """Return the checked configuration of a command, overrides applied, and the registry of plugins."""
    from sftcore.config.loader import load_config
    from sftcore.core.registry import Registry
    from sftcore.runtime.library_warnings import report_library_warnings

    report_library_warnings()
    registry, document = Registry.discover(), read_document(options)
    for assignment in options.overrides:
        document.override(assignment)
    return load_config(document, registry, os.environ), registry


def prepare_and_report(loaded: LoadedConfig, registry: Registry) -> Prepared:
    """Return the prepared data of a configuration, and print the counts of its rows."""
    from sftcore.runs.preparation import prepare_data, report_sources
    from sftcore.runtime.console import status

    if loaded.config.data.streaming:
        problem = "a stream is not prepared; add data.streaming=false, and a limit if the data is too large"
        raise loaded.document.error(("data", "streaming"), problem)
    served, prepared = prepare_data(loaded, registry)
    status("template", served.template.reason)
    report_sources(prepared)
    return prepared


def override_trackers(document: Document, names: list[str]) -> None:
    """Replace the trackers of *document* by *names*; those that it has keep their options."""
    before = document.data.get("trackers") or []
    options: dict[str, object] = {}
    for item in before if isinstance(before, list) else [before]:
        if isinstance(item, dict) and isinstance(name := item.get("name"), str):
            options[name] = options[name.rpartition("/")[2]] = item
    document.set(("trackers",), [options.get(name, name) for name in names], "--trace")
