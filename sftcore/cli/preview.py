"""``sft preview``: which tokens of the data are trained."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from sftcore.cli.shared import add_config, load
from sftcore.core.errors import ConfigError, DataError


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = "Show which tokens of the training data are trained. Loads the tokenizer, and no weights."
    add_config(parser, "preview")
    parser.add_argument("-n", type=int, default=5, metavar="ROWS", help="number of rows (default: %(default)s)")
    parser.add_argument("--source", metavar="FILE:LINE", help="the row at this place instead of the first rows")
    parser.add_argument("--tokens", action="store_true", help="mark the token boundaries")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON object per line for each example")
    output.add_argument("--html", metavar="FILE", help="write an HTML page instead of printing")


def execute(options: Namespace) -> int:
    from sftcore.inspection import preview
    from sftcore.inspection.preview_rows import label_preview_rows
    from sftcore.runtime.console import status, warn

    if options.n < 1:
        raise ConfigError(f"-n {options.n}: must be at least 1")
    rows = label_preview_rows(*load(options), options.n, options.source)
    status("template", rows.template)
    for message in rows.skipped:
        warn(message)
    for warning in rows.warnings:
        status("data", warning)
    if not rows.examples:
        raise DataError("none of these rows gives an example; try more with -n")
    if options.html is not None:
        from sftcore.inspection.preview_page import render_page

        summary = f"{options.config}, chat template {rows.template}"
        page = render_page(rows.examples, rows.tokenizer, options.config, [summary])
        try:
            Path(options.html).write_text(page, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--html {options.html}: cannot be written: {error.strerror}") from None
        status("saved", options.html)
    elif options.json:
        for example, origin in rows.examples:
            print(json.dumps(preview.example_to_json(example, origin)))
    else:
        style = {"colour": sys.stdout.isatty() and not os.environ.get("NO_COLOR"), "token_boundaries": options.tokens}
        print(preview.render_examples(rows.examples, rows.tokenizer, **style))
    return 0
