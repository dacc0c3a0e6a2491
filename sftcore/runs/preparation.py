"""Preparing the data of a run, before any process waits for another; and what is said of it at the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from sftcore.config.schema import Loaded
from sftcore.core.registry import Registry
from sftcore.data import PreparationProgress, Prepared, pack, prepare, prepare_stream
from sftcore.data.sources.files import find_files
from sftcore.data.sources.rejected import RejectedRow
from sftcore.models.chat_template import ModelSetup, set_up_model
from sftcore.runtime.console import count, status

FEW = 5
"""How many rejected rows of a source are shown, where a run continues without them."""


def prepared_data(loaded: Loaded, registry: Registry) -> tuple[ModelSetup, Prepared]:
    """Return how the model is served, and its data, labelled for that.

    Raises:
        SftError: the model, its chat template, or the data cannot be used; the message says why.
    """
    for source in loaded.config.data.sources:
        find_files(source, loaded.document)  # a mistyped path is reported at once
    served = set_up_model(loaded)
    way = prepare_stream if loaded.config.data.streaming else prepare
    return served, way(loaded, registry, served.labeller, PreparationProgress())


def packed(loaded: Loaded, prepared: Prepared) -> Prepared:
    """Return *prepared* with its examples in rows that they share, if the configuration asks for it.

    Raises:
        ConfigError: a training argument is wrong.
    """
    from sftcore.training.arguments import batch_sizes

    if not loaded.config.data.packing:
        return prepared
    return pack(prepared, loaded.config.data.max_length, batch_sizes(loaded))


def tell_read(prepared: Prepared) -> None:
    """Say which rows were read, with the first rejected ones of each source, and how they are used."""
    for source in prepared.sources:
        rejected = f", {source.bad:,} rejected:" if source.bad else ""
        status("data", f"{source.path}: {count(source.rows, 'row')}, format {source.format}{rejected}")
        _tell_first(source.first_bad, source.bad)
        if source.unlabelled:
            status("data", f"{count(source.unlabelled, 'row')} cannot be labelled with certainty, skipped:")
            _tell_first(source.first_unlabelled, source.unlabelled)
    for note in prepared.notes:
        status("data", note)


def _tell_first(first: Sequence[RejectedRow], number: int) -> None:
    for row in first[:FEW]:
        status("data", f"  {row}")
    if number > FEW:
        status("data", f"  ... and {number - FEW:,} more")


def tell_prepared(prepared: Prepared) -> None:
    """Say what became of the rows."""
    for name, summary in (("train", prepared.train_summary), ("eval", prepared.eval_summary)):
        if summary.rows:
            share = summary.trained / max(summary.tokens, 1)
            rows, tokens = count(summary.kept, "row"), count(summary.tokens, "token")
            more = f" in {count(summary.examples, 'example')}" if summary.examples != summary.kept else ""
            status(name, f"{rows}{more}, {tokens}, {summary.trained:,} of them trained ({share:.0%})")
        for note in summary.notes:
            status(name, note)
    if not prepared.train.streaming:  # what becomes of its rows is known when the run ends
        status("rows", str(prepared.account))
