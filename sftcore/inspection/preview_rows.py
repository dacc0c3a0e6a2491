"""The rows of the training data that ``sft preview`` shows, labelled as a run would label them."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import NamedTuple

from sftcore.config.loader import LoadedConfig
from sftcore.core.errors import DataError, RowError
from sftcore.core.registry import Registry
from sftcore.data import sample_sources
from sftcore.data.row_types import Origin
from sftcore.data.sources.rejected import rejected_rows
from sftcore.data.tables.account import RowTotals
from sftcore.data.tables.label_batch import label_row
from sftcore.data.tables.summary import WarningCounts
from sftcore.labelling import LabelledExample, TooLongError
from sftcore.models.chat_template import set_up_model


class PreviewRows(NamedTuple):
    """Rows of the preview, labelled or rejected.

    Attributes:
        examples: each with the row that it comes from.
        skipped: messages about rows that give no example.
        warnings: about the labels.
        template: which chat template labelled them, and why.
    """

    examples: list[tuple[LabelledExample, Origin]]
    skipped: list[str]
    warnings: list[str]
    tokenizer: object
    template: str


def label_preview_rows(loaded: LoadedConfig, registry: Registry, number: int, place: str | None) -> PreviewRows:
    """Label *number* rows of the training data, taken in turn from its sources; or the row at *place*, ``file:line``.

    Raises:
        SftError: the configuration or the data cannot be used, or has no row at *place*.
    """
    sources, wanted = loaded.config.data.train, _is_at(place) if place else None
    limit = None if place else number
    samples = sample_sources(sources, ("data", "train"), loaded, registry, wanted=wanted, limit=limit)
    bad = [str(row) for sample in samples for row in sample.rejected]
    if bad and (place or not loaded.config.data.max_bad_rows):
        raise DataError(rejected_rows(bad))
    by_source = [[(row, sample.source.policy) for row in sample.rows] for sample in samples]
    rows = [pair for pair in chain.from_iterable(zip_longest(*by_source)) if pair is not None]
    if place and not rows:
        read = ", ".join(source.path for source in sources)
        within = " within its limit" if any(source.limit for source in sources) else ""
        raise DataError(f"--source {place}: the training data has no such row{within} (sources: {read})")
    _, tokenizer, template, labeller, _ = set_up_model(loaded)
    examples: list[tuple[LabelledExample, Origin]] = []
    unlabelled: list[str] = []
    untrained: list[str] = []
    warnings = WarningCounts()
    for row, policy in islice(rows, number):
        try:
            row_labels = label_row(row, labeller, policy)
        except TooLongError as error:
            raise DataError(f"{row.origin}: {error}") from None
        except RowError as error:
            unlabelled.append(f"skipped, because the row cannot be labelled: {row.origin}: {error}")
            continue
        warnings.update(row_labels.warnings)
        trained = [example for example in row_labels.examples if example.trained]
        examples.extend((example, row.origin) for example in trained)
        if not trained:
            untrained.append(f"dropped, because none of its tokens is trained, or none within max_length: {row.origin}")
    malformed = [f"skipped, because the row is malformed: {problem}" for problem in bad]
    skipped = [*malformed, *unlabelled, *untrained]
    unread = [RowTotals(unread=sample.unread).unread_note(sample.source.config.path) for sample in samples]
    return PreviewRows(examples, skipped, [*filter(None, unread), *warnings.texts()], tokenizer, template.reason)


def _is_at(place: str) -> Callable[[Origin], bool]:
    path, _, line = place.rpartition(":")
    if not path or not line.isdecimal():
        raise DataError(f"--source {place}: give the row as file:line, with lines counted from 1")
    return lambda origin: origin.line == int(line) and _is_same_file(origin.path, path)


def _is_same_file(path: str, other: str) -> bool:
    if other in (path, Path(path).name):
        return True
    return os.path.exists(other) and os.path.exists(path) and os.path.samefile(path, other)
