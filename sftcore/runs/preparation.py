"""Preparing the data of a run, before any process waits for another; and what is said of it at the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from sftcore.config.loader import LoadedConfig
from sftcore.core.registry import Registry
from sftcore.data import Prepared, Progress, Stream, pack, prepare, prepare_stream
from sftcore.data.sources.files import files_of
from sftcore.data.sources.rejected import Refusal
from sftcore.models.chat_template import Serving, serving
from sftcore.runtime.console import count, say

FEW = 5
"""How many refused rows of a source are shown, where a run goes on without them."""


def prepared_data(loaded: LoadedConfig, registry: Registry) -> tuple[Serving, Prepared]:
    """Return how the model is served, and its data, labelled for that.

    Raises:
        SftError: the model, its chat template, or the data cannot be used; the message says why.
    """
    for source in loaded.config.data.sources:
        files_of(source, loaded.document)  # a mistyped path is told at once
    served = serving(loaded)
    way = prepare_stream if loaded.config.data.streaming else prepare
    return served, way(loaded, registry, served.labeller, Progress())


def packed(loaded: LoadedConfig, prepared: Prepared) -> Prepared:
    """Return *prepared* with its examples in rows that they share, if the configuration asks for it.

    Raises:
        ConfigError: a training argument is wrong.
    """
    from sftcore.training.arguments import batch_sizes

    if not loaded.config.data.packing:
        return prepared
    return pack(prepared, loaded.config.data.max_length, batch_sizes(loaded))


def tell_read(prepared: Prepared) -> None:
    """Say which rows were read, with the first refused ones of each source, and how they are used."""
    for source in prepared.sources:
        refused = f", {source.bad:,} refused:" if source.bad else ""
        say("data", f"{source.path}: {count(source.rows, 'row')}, format {source.format}{refused}")
        _tell_first(source.first_bad, source.bad)
        if source.unlabelled:
            say("data", f"{count(source.unlabelled, 'row')} cannot be labelled with certainty, and left out:")
            _tell_first(source.first_unlabelled, source.unlabelled)
    for note in prepared.notes:
        say("data", note)


def _tell_first(first: Sequence[Refusal], number: int) -> None:
    for refusal in first[:FEW]:
        say("data", f"  {refusal}")
    if number > FEW:
        say("data", f"  ... and {number - FEW:,} more")


def tell_prepared(prepared: Prepared) -> None:
    """Say what became of the rows."""
    for name, summary in (("train", prepared.train_summary), ("eval", prepared.eval_summary)):
        if summary.rows:
            share = summary.trained / max(summary.tokens, 1)
            rows, tokens = count(summary.kept, "row"), count(summary.tokens, "token")
            more = f" in {count(summary.examples, 'example')}" if summary.examples != summary.kept else ""
            say(name, f"{rows}{more}, {tokens}, {summary.trained:,} of them trained ({share:.0%})")
        for note in summary.notes:
            say(name, note)
    if not isinstance(prepared.train, Stream):  # what becomes of its rows is known when the run ends
        say("rows", str(prepared.account))
