"""``sft cache``: show or remove prepared data."""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = "Show or remove prepared data; docs/data.md explains the cache."
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser("list", help="show all entries, the last used first", allow_abbrev=False)
    show.add_argument("--json", action="store_true", help="print a JSON list of objects")
    clean = actions.add_parser("clean", help="remove the entries that no run uses", allow_abbrev=False)
    clean.add_argument(
        "--unused", type=float, default=0.0, metavar="DAYS", help="only entries that were not used for this many days"
    )


def execute(options: Namespace) -> int:
    from sftcore.data.preparation.source_cache import Cache
    from sftcore.runtime.console import format_bytes

    cache = Cache()
    entries = cache.entries()
    if options.action == "list":
        if options.json:
            print(json.dumps([entry.to_json() for entry in entries], indent=2, ensure_ascii=False))
        else:
            total = format_bytes(sum(entry.size for entry in entries))
            print("\n".join([*map(str, entries), f"{total} in {cache.folder}"]))
        return 0
    unused = [entry for entry in entries if time.time() - entry.used >= options.unused * 86400]
    removed = [entry for entry in unused if cache.remove(entry)]
    in_use = f"; {len(unused) - len(removed)} not removed: in use" if len(removed) < len(unused) else ""
    print(f"{format_bytes(sum(entry.size for entry in removed))} freed in {cache.folder}{in_use}")
    return 0
