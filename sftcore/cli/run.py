"""``sft run``: fine-tune a model."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from sftcore.cli.shared import add_config, override_trackers, read_document
from sftcore.core.hookspecs import BackendSpec
from sftcore.core.registry import Registry

OWN_FLAGS = ("help", "config", "trace", "resume")
"""Flags that no backend can have."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command, with a flag for each backend that takes a file."""
    parser.description = "Fine-tune a model. KEY=VALUE overrides a key of the YAML: method.r=8 training_args.seed=1"
    add_config(parser, "run")
    parser.add_argument(
        "--trace", metavar="TRACKER", help="use this tracker (or several: a,b) instead of those in the configuration"
    )
    parser.add_argument(
        "--resume",
        metavar="auto|CHECKPOINT",
        help="resume from the newest complete checkpoint in the output folder, or start from scratch if there is none "
        "(auto); or resume from the checkpoint at this path",
    )
    registry = Registry.discover()
    flags = {
        entry.name: (entry.qualified, spec.file_option)
        for entry, spec in registry.specs(BackendSpec)
        if spec.file_option and entry.name not in OWN_FLAGS and not registry.is_ambiguous(entry)
    }
    for name in flags:
        parser.add_argument(f"--{name}", metavar="FILE", help=f"use the {name} backend with this configuration file")
    parser.set_defaults(registry=registry, flags=flags)


def execute(options: Namespace) -> int:
    from sftcore.runs.run import run

    document = read_document(options)
    if options.trace is not None:
        override_trackers(document, options.trace.split(","))
    for name, (qualified, option) in options.flags.items():
        if (file := getattr(options, name.replace("-", "_"))) is not None:
            backend = document.data.get("backend")
            if not isinstance(backend, dict) or backend.get("name") not in (name, qualified):
                backend = {}  # options of another backend; its own ones stay
            document.set(("backend",), {**backend, "name": name, option: file}, f"--{name}")
    for assignment in options.overrides:
        document.override(assignment)
    if options.resume is not None:
        document.set(("training_args", "resume_from_checkpoint"), options.resume, "--resume")
    run(document, options.registry, options.argv, options.stop)
    return 0
