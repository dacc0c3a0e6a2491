"""The story of a run, from top to bottom."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import closing

from sftcore.config.document import Document
from sftcore.config.loader import load_config
from sftcore.core.errors import SftError
from sftcore.core.registry import Registry
from sftcore.runs.preparation import pack_if_configured, prepare_data, report_sets, report_sources, set_up
from sftcore.runtime.console import status
from sftcore.runtime.library_warnings import report_library_warnings
from sftcore.runtime.rank_control import LAUNCH_FOLDER_VARIABLE
from sftcore.runtime.redaction import redact_argv
from sftcore.runtime.signal_mask import block, own_stop_signals
from sftcore.runtime.signals import StopRequest


def run(document: Document, registry: Registry, argv: Sequence[str], stop: StopRequest) -> None:
    """Fine-tune as *document* says; where the backend starts processes, this process becomes their launcher.

    Args:
        argv: the command-line arguments, for the processes that a backend starts.
        stop: whether the run was asked to stop.

    Raises:
        SftError: the user can fix it; the message says how.
        Stopped: the run was asked to stop, and can be resumed.
    """
    report_library_warnings()
    loaded = load_config(document, registry, os.environ)
    status("config", document.name)
    stop.set_deadline(loaded.config.max_hours)
    from sftcore.runs.session import RunSession  # imports torch, so not before the configuration is checked
    from sftcore.training.arguments import check_training_args
    from sftcore.training.preflight import check_before_data
    from sftcore.training.private_names import check_private_names_of_libraries

    check_private_names_of_libraries()
    check_training_args(loaded)
    setup = set_up(loaded)
    check_before_data(loaded, setup)
    _, prepared = prepare_data(loaded, registry, setup)
    is_launched = "RANK" in os.environ and "WORLD_SIZE" in os.environ  # every launcher sets them
    if not is_launched and (command := loaded.config.backend.command(argv)) is not None:
        _become_launcher(command)
    status("template", setup.template.reason)
    report_sources(prepared)
    prepared = pack_if_configured(loaded, prepared)
    report_sets(prepared)
    with closing(prepared.train) as rows:
        rows.start()
        RunSession(loaded, setup, prepared, argv).train(stop)


def _become_launcher(command: Sequence[str]) -> None:
    """Replace this process by one that runs *command*, passes on requests to stop, and exits as the ranks do."""
    if LAUNCH_FOLDER_VARIABLE in os.environ:
        raise SftError(
            "the backend's launcher started this process without RANK and WORLD_SIZE, so that it would start launchers "
            "forever; the backend needs a launcher that sets them, as torch's does"
        )
    status("launch", " ".join(redact_argv(command)))
    sys.stdout.flush()
    sys.stderr.flush()
    block(own_stop_signals())  # they wait until the other program handles them
    os.execv(sys.executable, [sys.executable, "-P", "-m", "sftcore.runtime.parent_process", *command])
