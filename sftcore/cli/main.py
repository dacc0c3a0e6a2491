"""The command line. ``--help`` and ``list-plugins`` import nothing heavy."""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sftcore import __version__
from sftcore.core.errors import ConfigError, DataError, SftError
from sftcore.runtime import redaction
from sftcore.runtime.launch_protocol import STOPPED_EXIT_CODE
from sftcore.runtime.signals import Stopped, StopRequest, handle_stop_signals

if TYPE_CHECKING:
    from sftcore.config.document import Document
    from sftcore.config.loader import LoadedConfig
    from sftcore.core.registry import Registry
    from sftcore.data import Prepared

DEFAULT_CONFIG = "config/finetune.yaml"

RUN_FLAGS = ("help", "config", "trace", "resume")
"""Flags of `sft run`, which no backend may have."""

PREPARING = ("run", "prepare", "stats", "preview")
"""Commands that read a configuration and its data, and take ``KEY=VALUE``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0; 2 for what the user can mend; 75 for a run that can go on."""
    argv = list(sys.argv[1:] if argv is None else argv)
    sys.excepthook = redaction.print_redacted_traceback
    redaction.register_argv_secrets(argv)
    try:
        argv = _take_local_rank(argv)
        with handle_stop_signals(os.environ) if argv[:1] == ["run"] else nullcontext(StopRequest()) as stop:
            return _dispatch(argv, stop)
    except SftError as error:
        rank = os.environ.get("RANK", "0")
        where = "" if rank == "0" else f" [rank {rank}]"
        print(f"sft{where}: error: {redaction.redact_text(str(error))}", file=sys.stderr)
        return error.exit_code
    except Stopped as stopped:
        if os.environ.get("RANK", "0") == "0":
            print(f"sft: stopped by {stopped}; the same command with --resume auto goes on", file=sys.stderr)
        return STOPPED_EXIT_CODE
    except KeyboardInterrupt:
        print("sft: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _dispatch(argv: list[str], stop: StopRequest) -> int:
    registry: Registry | None = None
    flags: dict[str, tuple[str, str]] = {}
    if argv and argv[0] in PREPARING:
        from sftcore.core.registry import Registry

        registry = Registry.discover()
        flags = _backend_flags(registry) if argv[0] == "run" else {}
    parser = _parser(flags)
    if argv and argv[0].startswith("--config"):
        parser.error(f"give the command first: sft run {' '.join(argv)}")
    options, rest = parser.parse_known_args(argv)
    # overrides may stand anywhere between the flags, which argparse's positionals cannot
    takes_overrides = options.command in PREPARING
    strangers = [
        shown
        for word, shown in zip(rest, redaction.redact_argv(rest), strict=True)
        if not takes_overrides or word.startswith("-") or "=" not in word
    ]
    if takes_overrides and strangers and not any(word.startswith("-") for word in strangers):
        parser.error(f"'{strangers[0]}': expected KEY=VALUE, for example training_args.max_steps=20")
    if strangers:
        parser.error(f"unrecognized arguments: {' '.join(strangers)}")
    if options.command == "run":
        assert registry is not None
        return _run(options, rest, registry, flags, argv, stop)
    if options.command in PREPARING:
        assert registry is not None
        command = {"prepare": _prepare, "stats": _stats, "preview": _preview}[options.command]
        return command(options, rest, registry)
    if options.command == "cache":
        return _cache(options)
    if options.command == "checkpoints":
        return _checkpoints(Path(options.folder), options.verify, options.json)
    if options.command == "sync":
        return _sync(options)
    if options.command == "list-plugins":
        from sftcore.core.registry import Registry

        return _list_plugins(Registry.discover(), as_json=options.json, verbose=options.verbose)
    parser.print_help()
    return 0


def _take_local_rank(argv: list[str]) -> list[str]:
    """Return *argv* without ``--local_rank N``, which launchers put anywhere, and tell torch of it by its variable."""
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in ("--local_rank", "--local-rank"):
            value = value if equals else next(words, "")
            if not value.lstrip("-").isdigit():
                raise ConfigError(f"{flag} takes a number, not '{value}'")
            if int(value) >= 0:
                os.environ.setdefault("LOCAL_RANK", value)
        else:
            rest.append(word)
    return rest


class _Parser(argparse.ArgumentParser):
    """A parser whose messages have no secrets, though they repeat what was typed."""

    def error(self, message: str) -> NoReturn:
        super().error(redaction.redact_text(message))


def _parser(backend_flags: dict[str, tuple[str, str]]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sft", description="Supervised fine-tuning of language models, every part a plugin.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"sftcore {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    run = commands.add_parser(
        "run",
        help="fine-tune a model",
        usage="sft run [options] [KEY=VALUE ...]",
        description="Fine-tune a model. KEY=VALUE overrides a key of the YAML: method.r=8 training_args.max_steps=20",
        allow_abbrev=False,
    )
    _add_config(run)
    run.add_argument(
        "--trace", metavar="TRACKER", help="use this tracker (or several: a,b) in place of the configuration's"
    )
    run.add_argument(
        "--resume",
        metavar="auto|CHECKPOINT",
        help="go on from the newest whole checkpoint in the output folder, or begin anew where there is none (auto); "
        "or from the one that is named",
    )
    for name in backend_flags:
        run.add_argument(
            f"--{name}", metavar="FILE", help=f"use the {name} backend, with this file as its configuration"
        )

    prepare = commands.add_parser(
        "prepare",
        help="label the data, and do nothing else",
        usage="sft prepare [options] [KEY=VALUE ...]",
        description="Read, label and tokenize the data of a run, which then finds them in the cache. Needs no GPU.",
        allow_abbrev=False,
    )
    _add_config(prepare)

    stats = commands.add_parser(
        "stats",
        help="show how long examples are, and what max_length costs",
        usage="sft stats [options] [KEY=VALUE ...]",
        description="Show how long the examples of the training data are, how much of them is trained, and what "
        "max_length and packing would cost.",
        allow_abbrev=False,
    )
    _add_config(stats)
    stats.add_argument("--json", action="store_true", help="print a JSON object")

    cache = commands.add_parser(
        "cache",
        help="show or remove prepared data",
        description="Show or remove prepared data; docs/data.md tells what is kept.",
        allow_abbrev=False,
    )
    actions = cache.add_subparsers(dest="action", metavar="ACTION", required=True)
    listed = actions.add_parser("list", help="show what is there, the last used first", allow_abbrev=False)
    listed.add_argument("--json", action="store_true", help="print a JSON list of objects")
    clean = actions.add_parser("clean", help="remove what no run uses", allow_abbrev=False)
    clean.add_argument(
        "--unused", type=float, default=0.0, metavar="DAYS", help="only what was not used for so many days"
    )

    checkpoints = commands.add_parser(
        "checkpoints",
        help="show the checkpoints of a run, and whether they are whole",
        description="Show the checkpoints in an output folder, the newest first. Exit code 1: one is not whole.",
        allow_abbrev=False,
    )
    checkpoints.add_argument("folder", metavar="DIR", help="the output folder of a run")
    checkpoints.add_argument("--verify", action="store_true", help="read all files, and compare them with the manifest")
    checkpoints.add_argument("--json", action="store_true", help="print a JSON list of objects")
    sync = commands.add_parser(
        "sync",
        help="send the metrics of a run to its trackers",
        description="Send the metrics that a run has written to its trackers, which may have missed them.",
        allow_abbrev=False,
    )
    sync.add_argument("folder", metavar="DIR", help="the output folder of the run")
    sync.add_argument(
        "--trace", metavar="TRACKER", help="send to this tracker (or several: a,b), not to all of the run"
    )

    preview = commands.add_parser(
        "preview",
        help="show which tokens of the data are trained",
        usage="sft preview [options] [KEY=VALUE ...]",
        description="Show which tokens of the training data are trained. Loads the tokenizer, and no weights.",
        allow_abbrev=False,
    )
    _add_config(preview)
    preview.add_argument("-n", type=int, default=5, metavar="ROWS", help="how many rows (default: %(default)s)")
    preview.add_argument("--source", metavar="FILE:LINE", help="the row that stands there, in place of the first ones")
    preview.add_argument("--tokens", action="store_true", help="mark the borders between tokens")
    output = preview.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON object a line for each example")
    output.add_argument("--html", metavar="FILE", help="write a page for the browser, in place of printing")

    plugins = commands.add_parser(
        "list-plugins",
        help="show every installed component",
        description="Show every installed component.",
        allow_abbrev=False,
    )
    plugins.add_argument("--json", action="store_true", help="print a JSON list of objects")
    plugins.add_argument(
        "--verbose", action="store_true", help="show the options of each, with type, default and meaning"
    )
    return parser


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config",
        default=DEFAULT_CONFIG,
        metavar="PATH",
        help="YAML file, or package:NAME/file (default: %(default)s)",
    )


def _backend_flags(registry: Registry) -> dict[str, tuple[str, str]]:
    """Return the qualified name and the file option of each backend that has a flag, by name."""
    from sftcore.core.hookspecs import BackendSpec

    return {
        entry.name: (entry.qualified, spec.file_option)
        for entry, spec in registry.specs(BackendSpec)
        if spec.file_option and entry.name not in RUN_FLAGS and not registry.is_ambiguous(entry)
    }


def _run(
    options: argparse.Namespace,
    overrides: list[str],
    registry: Registry,
    flags: dict[str, tuple[str, str]],
    argv: list[str],
    stop: StopRequest,
) -> int:
    from sftcore.config.document import Document
    from sftcore.runs.run import run
    from sftcore.runtime.paths import locate

    document = Document.load(Path(locate(options.config)))
    if options.trace is not None:
        _override_trackers(document, options.trace.split(","))
    for name, (qualified, option) in flags.items():
        if (file := getattr(options, name.replace("-", "_"))) is not None:
            _override_backend(document, name, qualified, option, file)
    for assignment in overrides:
        document.override(assignment)
    if options.resume is not None:
        document.set(("training_args", "resume_from_checkpoint"), options.resume, "--resume")
    return run(document, registry, argv, stop)


def _loaded(options: argparse.Namespace, overrides: list[str], registry: Registry) -> LoadedConfig:
    """Return the configuration that a command names, with what it overrides."""
    from sftcore.config.document import Document
    from sftcore.config.loader import load_config
    from sftcore.runtime.console import quiet_libraries
    from sftcore.runtime.paths import locate

    quiet_libraries()
    document = Document.load(Path(locate(options.config)))
    for assignment in overrides:
        document.override(assignment)
    return load_config(document, registry, os.environ)


def _prepared(loaded: LoadedConfig, registry: Registry) -> Prepared:
    """Return the prepared data of a configuration, and say what became of its rows."""
    from sftcore.runs.preparation import prepare_data, report_sources
    from sftcore.runtime.console import status

    if loaded.config.data.streaming:
        problem = "nothing is prepared of a stream; add data.streaming=false, and a limit if there is too much of it"
        raise loaded.document.error(("data", "streaming"), problem)
    served, prepared = prepare_data(loaded, registry)
    status("template", served.template.reason)
    report_sources(prepared)
    return prepared


def _prepare(options: argparse.Namespace, overrides: list[str], registry: Registry) -> int:
    from sftcore.runs.preparation import pack_if_configured, report_sets
    from sftcore.runtime.console import status

    loaded = _loaded(options, overrides, registry)
    prepared = pack_if_configured(loaded, _prepared(loaded, registry))
    report_sets(prepared)
    for folder in dict.fromkeys(str(cached.folder) for cached, _ in prepared.cached):
        status("cached", folder)
    return 0


def _stats(options: argparse.Namespace, overrides: list[str], registry: Registry) -> int:
    from sftcore.inspection import stats
    from sftcore.training.arguments import batch_sizes

    loaded = _loaded(options, overrides, registry)
    examples, length = _prepared(loaded, registry).examples, loaded.config.data.max_length
    size = batch_sizes(loaded)[0]
    length_stats = stats.compute_stats(examples, length, size)
    if options.json:
        print(json.dumps(stats.stats_to_json(length_stats), indent=2))
    else:
        _print(stats.render_stats(length_stats, length, size, shutil.get_terminal_size().columns))
    return 0


def _cache(options: argparse.Namespace) -> int:
    from sftcore.data.preparation.cache import Cache
    from sftcore.runtime.console import format_bytes

    cache = Cache()
    entries = cache.entries()
    if options.action == "list":
        if options.json:
            print(json.dumps([entry.to_json() for entry in entries], indent=2, ensure_ascii=False))
        else:
            total = format_bytes(sum(entry.size for entry in entries))
            _print("\n".join([*map(str, entries), f"{total} in {cache.folder}"]))
        return 0
    freed, kept = 0, 0
    for entry in entries:
        if time.time() - entry.used < options.unused * 86400:
            continue
        if cache.remove(entry):
            freed += entry.size
        else:
            kept += 1
    in_use = f"; {kept} in use, and kept" if kept else ""
    print(f"{format_bytes(freed)} freed in {cache.folder}{in_use}")
    return 0


def _checkpoints(folder: Path, verify: bool, as_json: bool) -> int:
    from sftcore.checkpoint import CheckpointStore
    from sftcore.runtime.console import count, format_bytes

    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; name the output_dir of a run")
    found = list(CheckpointStore(folder).checkpoints(read_content=verify))
    if as_json:
        rows = [
            {
                "path": str(item.path),
                "step": item.step,
                "written": item.manifest and item.manifest.written,
                "world_size": item.manifest and item.manifest.world_size,
                "size": item.manifest and item.manifest.size,
                "problem": item.problem,
            }
            for item in found
        ]
        print(json.dumps(rows, indent=2))
    else:
        for item in found:
            about = f"step {item.step:,}"
            if item.manifest:
                ranks = count(item.manifest.world_size, "rank")
                about += f"  {item.manifest.written}  {ranks}  {format_bytes(item.manifest.size)}"
            state = "whole" if verify else "committed"
            print(f"{item.path}  {about}  {f'not whole: {item.problem}' if item.problem else state}")
        if not found:
            print(f"there is no checkpoint in {folder}")
    return int(any(item.problem for item in found))


def _sync(options: argparse.Namespace) -> int:
    from sftcore.core.registry import Registry
    from sftcore.tracking.sync import MetricsSync

    sync = MetricsSync(Path(options.folder))
    if options.trace is not None:
        _override_trackers(sync.document, options.trace.split(","))
    sync.send(Registry.discover())
    return 0


def _preview(options: argparse.Namespace, overrides: list[str], registry: Registry) -> int:
    from sftcore.inspection import preview
    from sftcore.inspection.preview_rows import label_preview_rows
    from sftcore.runtime.console import status, warn

    if options.n < 1:
        raise ConfigError(f"-n {options.n}: how many rows? at least 1")
    rows = label_preview_rows(_loaded(options, overrides, registry), registry, options.n, options.source)
    status("template", rows.template)
    for problem in rows.malformed:
        warn(f"left out, because it is a bad row: {problem}")
    for problem in rows.unlabelled:
        warn(f"left out, because it cannot be labelled with certainty: {problem}")
    for origin in rows.untrained:
        warn(f"dropped, because no token of it is trained, or none within max_length: {origin}")
    for remark in rows.warnings:
        status("told", remark)
    if not rows.examples:
        raise DataError("none of these rows gives an example; try more with -n")
    if options.html is not None:
        from sftcore.inspection.preview_page import render_page

        lines = [f"{options.config}, chat template {rows.template}"]
        try:
            Path(options.html).write_text(
                render_page(rows.examples, rows.tokenizer, options.config, lines), encoding="utf-8"
            )
        except OSError as error:
            raise ConfigError(f"--html {options.html}: cannot be written: {error.strerror}") from None
        status("saved", options.html)
    elif options.json:
        for example, origin in rows.examples:
            print(json.dumps(preview.example_to_json(example, origin)))
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        _print(preview.render_examples(rows.examples, rows.tokenizer, colour=colour, token_boundaries=options.tokens))
    return 0


def _print(text: str) -> None:
    """Print *text*, also on a terminal that knows no Unicode."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    print(text)


def _override_trackers(document: Document, names: list[str]) -> None:
    """Track with *names* alone; one that the configuration has keeps its options."""
    before = document.data.get("trackers") or []
    given: dict[str, object] = {}
    for item in before if isinstance(before, list) else [before]:
        if isinstance(item, dict) and isinstance(name := item.get("name"), str):
            given[name] = given[name.rpartition("/")[2]] = item
    document.set(("trackers",), [given.get(name, name) for name in names], "--trace")


def _override_backend(document: Document, name: str, qualified: str, option: str, file: str) -> None:
    """Select the backend *name* with the configuration *file*; its other options stay as the YAML has them."""
    before = document.data.get("backend")
    kept = dict(before) if isinstance(before, dict) and before.get("name") in (name, qualified) else {}
    document.set(("backend",), {**kept, "name": name, option: file}, f"--{name}")


def _list_plugins(registry: Registry, as_json: bool, verbose: bool) -> int:
    rows = [_listed(registry, entry, verbose) for entry in registry.entries]
    rows += [
        {
            "kind": "plugin",
            "name": item.entry_point,
            "distribution": item.distribution,
            "version": item.version,
            "status": "broken",
            "error": item.error,
        }
        for item in registry.broken
    ]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    if not rows:
        print("no plugins found; install the package, for example with `pip install -e .`")
    widths = {
        key: max([len(str(row[key])) for row in rows] or [0]) for key in ("kind", "name", "distribution", "version")
    }
    for row in rows:
        line = "  ".join(str(row[key]).ljust(width) for key, width in widths.items())
        print(f"{line}  {row['status']}".rstrip() + (f": {row['error']}" if "error" in row else ""))
        if verbose and row.get("description"):
            print(f"    {row['description']}")
        options = row.get("options", [])
        assert isinstance(options, list)
        for option in options:
            head = f"{option['name']}: {option['type']} = {option['default']}" if option["type"] else option["name"]
            print(f"      {head}" + (f"\n          {option['description']}" if option["description"] else ""))
    return 0


def _listed(registry: Registry, entry: object, verbose: bool) -> dict[str, object]:
    """Return what is shown of one component."""
    from sftcore.core.registry import Entry

    assert isinstance(entry, Entry)
    status = f"ambiguous, write {entry.qualified}" if registry.is_ambiguous(entry) else "ok"
    row: dict[str, object] = {
        "kind": entry.kind,
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "status": status,
    }
    if problem := entry.problem():
        return {**row, "status": "broken", "error": problem}
    if not verbose:
        return row
    from sftcore.config.fields import describe_options
    from sftcore.core.template_file import FileTemplate

    try:
        cls = entry.component_class()
        if isinstance(entry.target, Path):
            return {**row, "description": FileTemplate(entry.target).description() or str(entry.target), "options": []}
        first = (cls.__doc__ or "").strip().splitlines()[:1]
        options = [option._asdict() for option in describe_options(cls)]
    except Exception as error:  # of one plugin; the others are listed all the same
        return {**row, "status": "broken", "error": str(error)}
    return {**row, "description": first[0] if first else "", "options": options}
