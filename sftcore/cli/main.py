"""Parse the command line, run one command, and turn its errors into messages and exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from sftcore import __version__
from sftcore.core.errors import ConfigError, SftError
from sftcore.runtime.console import is_main_process
from sftcore.runtime.output import OutputError, discard_output, guard_output
from sftcore.runtime.rank_control import STOPPED_EXIT_CODE
from sftcore.runtime.redaction import redact_argv, register_argv_secrets
from sftcore.runtime.signals import Stopped, StopRequest, handle_stop_signals

COMMANDS = {
    "run": "fine-tune a model",
    "prepare": "label the data, and do nothing else",
    "stats": "show how long examples are, and what max_length costs",
    "cache": "show or remove prepared data",
    "checkpoints": "show the checkpoints of a run, and whether they are complete",
    "sync": "send the metrics of a run to its trackers",
    "preview": "show which tokens of the data are trained",
    "list-plugins": "show every installed component",
}
"""Name and one line of help of each command; it is in the module of this name."""

TAKES_OVERRIDES = ("run", "prepare", "stats", "preview")
"""Commands that read a configuration, and take ``KEY=VALUE``."""

_WITHOUT_RESULT = {"run", "prepare", "sync"}  # what they print only says how they fare


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0; 2 for an error that the user can fix; 75 for a run that was stopped and can be resumed; 130
        after Ctrl-C; 141 where the reader of the output has closed it.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    register_argv_secrets(argv)
    guard_output(is_result=not _WITHOUT_RESULT & {*argv[:3]}, has_rows=argv[:1] == ["preview"])
    try:
        argv = _take_local_rank(argv)
        with handle_stop_signals(os.environ) if argv[:1] == ["run"] else nullcontext(StopRequest()) as stop:
            try:
                return _dispatch(argv, stop)
            finally:
                sys.stdout.flush()
    except SftError as error:
        where = "" if is_main_process() else f" [rank {os.environ['RANK']}]"
        print(f"sft{where}: error: {error}", file=sys.stderr)
        return error.exit_code
    except Stopped as stopped:
        if is_main_process():
            print(f"sft: stopped by {stopped}; resume with the same command and --resume auto", file=sys.stderr)
        return STOPPED_EXIT_CODE
    except KeyboardInterrupt:
        print("sft: stopped", file=sys.stderr)
        return 130
    except OutputError as error:
        discard_output()
        if error.is_broken_pipe:  # the reader has gone, as in `| head`
            return 141
        print(f"sft: error: {error}", file=sys.stderr)
        return 2


def _dispatch(argv: list[str], stop: StopRequest) -> int:
    parser = argparse.ArgumentParser(
        prog="sft", description="Supervised fine-tuning of language models, every part a plugin.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"sftcore {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    parsers = {name: commands.add_parser(name, help=text, allow_abbrev=False) for name, text in COMMANDS.items()}
    if argv and argv[0].startswith("--config"):
        parser.error(f"give the command first: sft run {' '.join(argv)}")
    command = argv[0] if argv and argv[0] in COMMANDS else None
    if command:
        module = importlib.import_module(f"sftcore.cli.{command.replace('-', '_')}")
        module.add_arguments(parsers[command])
    options, rest = parser.parse_known_args(argv)
    # overrides may stand anywhere between the flags, which argparse's positionals cannot
    unknown = [
        shown
        for word, shown in zip(rest, redact_argv(rest), strict=True)
        if command not in TAKES_OVERRIDES or word.startswith("-") or "=" not in word
    ]
    if command in TAKES_OVERRIDES and unknown and not any(word.startswith("-") for word in unknown):
        if unknown[0].endswith((".yaml", ".yml")):
            parser.error(f"write --config {unknown[0]}")
        parser.error(f"'{unknown[0]}': expected KEY=VALUE, for example training_args.max_steps=20")
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if command is None:
        parser.print_help()
        return 0
    options.argv, options.overrides, options.stop = argv, rest, stop
    return int(module.execute(options))


def _take_local_rank(argv: list[str]) -> list[str]:
    """Return *argv* without ``--local_rank N``, which launchers put anywhere, and set torch's variable to it."""
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
