"""``sft list-plugins``: every installed component."""

from __future__ import annotations

import json
import textwrap
from argparse import ArgumentParser, Namespace
from pathlib import Path

from sftcore.core.registry import Entry, Registry
from sftcore.core.template_file import FileTemplate
from sftcore.runtime.redaction import redact_text


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = "Show every installed component."
    parser.add_argument("--json", action="store_true", help="print a JSON list of objects")
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="show the options of each component, with type, default and description; imports all of them",
    )


def execute(options: Namespace) -> int:
    registry = Registry.discover()
    rows = [_component_row(registry, entry, options.verbose) for entry in registry.entries]
    for item in registry.broken:
        row = {"kind": "plugin", "name": item.entry_point, "distribution": item.distribution, "version": item.version}
        trace = {"traceback": redact_text(item.traceback)} if options.verbose else {}
        rows.append({**row, "status": "broken", "error": item.error, **trace})
    if options.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif rows:
        _print_table(rows)
    else:
        print("no plugins found; install the package, for example with `pip install -e .`")
    return 0


def _component_row(registry: Registry, entry: Entry, verbose: bool) -> dict[str, object]:
    row = {"kind": entry.kind, "name": entry.name, "distribution": entry.distribution, "version": entry.version}
    if problem := entry.problem():
        return {**row, "status": "broken", "error": problem}
    row["status"] = f"ambiguous, write {entry.qualified}" if registry.is_ambiguous(entry) else "ok"
    if not verbose:
        return {**row}
    from sftcore.config.fields import describe_options

    try:
        cls = entry.component_class()
        if isinstance(entry.target, Path):
            return {**row, "description": FileTemplate(entry.target).description() or str(entry.target), "options": []}
        description = next(iter((cls.__doc__ or "").strip().splitlines()), "")
        return {**row, "description": description, "options": [option._asdict() for option in describe_options(cls)]}
    except Exception as error:  # a broken component must not hide the others
        return {**row, "status": "broken", "error": str(error)}


def _print_table(rows: list[dict[str, object]]) -> None:
    widths = {key: max(len(str(row[key])) for row in rows) for key in ("kind", "name", "distribution", "version")}
    for row in rows:
        line = "  ".join(str(row[key]).ljust(width) for key, width in widths.items())
        print(f"{line}  {row['status']}".rstrip() + (f": {row['error']}" if "error" in row else ""))
        if row.get("traceback"):
            print(textwrap.indent(str(row["traceback"]).rstrip(), "    "))
        if row.get("description"):
            print(f"    {row['description']}")
        options = row.get("options", [])
        assert isinstance(options, list)
        for option in options:
            head = f"{option['name']}: {option['type']} = {option['default']}" if option["type"] else option["name"]
            print(f"      {head}" + (f"\n          {option['description']}" if option["description"] else ""))
