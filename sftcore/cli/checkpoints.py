"""``sft checkpoints``: the checkpoints of a run, and whether they are complete."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from sftcore.core.errors import ConfigError


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = "Show the checkpoints in an output folder, the newest first. Exit code 1: one is not complete."
    parser.add_argument("folder", metavar="DIR", help="the output folder of a run")
    parser.add_argument("--verify", action="store_true", help="read all files, and compare them with the manifest")
    parser.add_argument("--json", action="store_true", help="print a JSON list of objects")


def execute(options: Namespace) -> int:
    from sftcore.checkpoint.store import CheckpointStore
    from sftcore.runtime.console import count, format_bytes

    folder = Path(options.folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; name the output_dir of a run")
    checkpoints = list(CheckpointStore(folder).checkpoints(read_content=options.verify))
    if options.json:
        rows = [
            {
                "path": str(item.path),
                "step": item.step,
                **{key: item.manifest and getattr(item.manifest, key) for key in ("written", "world_size", "size")},
                "problem": item.problem,
            }
            for item in checkpoints
        ]
        print(json.dumps(rows, indent=2))
    elif not checkpoints:
        print(f"no checkpoint in {folder}")
    else:
        for item in checkpoints:
            details = f"step {item.step:,}"
            if item.manifest:
                ranks = count(item.manifest.world_size, "rank")
                details += f"  {item.manifest.written}  {ranks}  {format_bytes(item.manifest.size)}"
            state = f"not complete: {item.problem}" if item.problem else "verified" if options.verify else "complete"
            print(f"{item.path}  {details}  {state}")
    return int(any(item.problem for item in checkpoints))
