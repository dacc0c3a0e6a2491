"""The data of a run: prepared before any process waits for another, and reported at the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from sftcore.config.loader import LoadedConfig
from sftcore.core.registry import Registry
from sftcore.data import PreparationProgress, Prepared, pack, prepare, prepare_stream
from sftcore.data.sources.rejected import RejectedRow
from sftcore.data.sources.source_rows import find_files
from sftcore.data.tables.account import rejected_at
from sftcore.models.chat_template import ModelSetup, set_up_model
from sftcore.runtime.console import count, status, warn

_SHOWN = 5  # rejected rows shown per source, where a run continues without them


def set_up(loaded: LoadedConfig) -> ModelSetup:
    """The model without its weights, once all data files are found.

    Raises:
        SftError: a file does not exist, or the model or its chat template cannot be used.
    """
    for source in loaded.config.data.sources:
        find_files(source, loaded.document)  # a mistyped path is reported before anything else
    return set_up_model(loaded)


def prepare_data(
    loaded: LoadedConfig, registry: Registry, setup: ModelSetup | None = None
) -> tuple[ModelSetup, Prepared]:
    """Label the data for the model of *setup*; without it, set that up.

    Raises:
        SftError: the model, its chat template or the data cannot be used; the message says why.
    """
    setup = setup or set_up(loaded)
    prepare_rows = prepare_stream if loaded.config.data.streaming else prepare
    prepared = prepare_rows(loaded, registry, setup.labeller, PreparationProgress())
    if setup.known_ids:  # of a stream only the first rows are known now; its batches are checked
        setup.known_ids.check_all(prepared.examples)
        setup.known_ids.check_all(prepared.eval)
    return setup, prepared


def pack_if_configured(loaded: LoadedConfig, prepared: Prepared) -> Prepared:
    """*prepared*, with its examples packed if the configuration says so.

    Raises:
        ConfigError: a training argument is wrong.
    """
    from sftcore.training.arguments import batch_sizes

    if not loaded.config.data.packing:
        return prepared
    return pack(prepared, loaded.config.data.max_length, batch_sizes(loaded))


def report_sources(prepared: Prepared) -> None:
    """Print how many rows were read from each source, with the first rejected ones, and how they are used."""
    for item in prepared.sources:
        source, totals = item.source, item.cached.totals
        bad, unlabelled = sum(totals.bad.values()), sum(totals.unlabelled.values())
        rejected = f", {bad:,} rejected:" if bad else ""
        status("data", f"{source.config.path}: {count(totals.read, 'row')}, format {source.format_name}{rejected}")
        _report_rejected(rejected_at(totals.first_bad, item.names), bad)
        if note := totals.unread_note(source.config.path):
            warn(note)
        if unlabelled:
            status("data", f"{count(unlabelled, 'row')} skipped because of uncertain labels:")
            _report_rejected(rejected_at(totals.first_unlabelled, item.names), unlabelled)
    for note in prepared.notes:
        status("data", note)


def _report_rejected(first: Sequence[RejectedRow], number: int) -> None:
    for rejected in first[:_SHOWN]:
        status("data", f"  {rejected}")
    if number > _SHOWN:
        status("data", f"  ... and {number - _SHOWN:,} more")


def report_sets(prepared: Prepared) -> None:
    """Print rows and tokens of the sets to train and evaluate, and the account of all rows."""
    for name, summary in (("train", prepared.train_summary), ("eval", prepared.eval_summary)):
        if summary.rows:
            share = summary.trained / max(summary.tokens, 1)
            rows, tokens = count(summary.kept, "row"), count(summary.tokens, "token")
            examples = f" in {count(summary.examples, 'example')}" if summary.examples != summary.kept else ""
            status(name, f"{rows}{examples}, {tokens}, {summary.trained:,} of them trained ({share:.0%})")
        for note in summary.notes:
            status(name, note)
    if not prepared.train.streaming:  # the account of a stream is known when the run ends
        status("rows", str(prepared.account))
