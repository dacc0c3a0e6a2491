"""``sft stats``: how long the examples are."""

from __future__ import annotations

import json
import shutil
from argparse import ArgumentParser, Namespace

from sftcore.cli.shared import add_config, load, prepare_and_report


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = (
        "Show how long the examples of the training data are, how many of their tokens are trained, and what "
        "max_length and packing would cost."
    )
    add_config(parser, "stats")
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def execute(options: Namespace) -> int:
    from sftcore.inspection.stats import compute_stats, render_stats, stats_to_json
    from sftcore.training.arguments import batch_sizes

    loaded, registry = load(options)
    examples, length = prepare_and_report(loaded, registry).examples, loaded.config.data.max_length
    size = batch_sizes(loaded)[0]
    stats = compute_stats(examples, length, size)
    if options.json:
        print(json.dumps(stats_to_json(stats), indent=2))
    else:
        print(render_stats(stats, length, size, shutil.get_terminal_size().columns))
    return 0
