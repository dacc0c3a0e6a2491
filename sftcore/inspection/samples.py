"""Some rows of the training data, labelled as a run would label them, for a person to look at."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import NamedTuple

from sftcore.config.loader import LoadedConfig
from sftcore.core.errors import DataError, RowError
from sftcore.core.registry import Registry
from sftcore.data import parse_sources
from sftcore.data.row_types import Origin
from sftcore.data.sources.rejected import bad_rows
from sftcore.data.tables.label_batch import labelled
from sftcore.data.tables.summary import remarked
from sftcore.labelling import Labelled, Remark, TooLongError
from sftcore.models.chat_template import serving


class Samples(NamedTuple):
    """Examples with their rows, rows that were refused, and what the labels were made with.

    ``bad`` are rows that no format could read; ``refused`` are those that the chat template cannot label;
    ``untrained`` are those of which nothing is trained.
    """

    bad: list[str]
    shown: list[tuple[Labelled, Origin]]
    refused: list[str]
    untrained: list[Origin]
    remarks: list[str]
    tokenizer: object
    template: str


def samples(loaded: LoadedConfig, registry: Registry, number: int, place: str | None) -> Samples:
    """Label *number* rows of the training data, taken in turn from its sources; or the one row at *place*.

    Args:
        place: ``file:line`` of a row, as errors and the run record write it.

    Raises:
        SftError: the configuration or the data cannot be used, or there is no row at *place*.
    """
    sources = parse_sources(
        loaded.config.data.train,
        ("data", "train"),
        loaded,
        registry,
        wanted=_at(place) if place else None,
        limit=None if place else number,
    )
    bad = [refusal for source in sources for refusal in source.refused]
    if bad and (place or not loaded.config.data.max_bad_rows):
        raise DataError(bad_rows([str(refusal) for refusal in bad]))
    in_turn = chain.from_iterable(zip_longest(*(source.rows for source in sources)))
    rows = [row for row in in_turn if row is not None]
    if place and not rows:
        read = ", ".join(source.path for source in loaded.config.data.train)
        within = " within its limit" if any(source.limit for source in loaded.config.data.train) else ""
        raise DataError(f"--source {place}: the training data has no such row{within} (sources: {read})")
    _, tokenizer, template, labeller = serving(loaded)
    found = Samples([str(refusal) for refusal in bad], [], [], [], [], tokenizer, template.reason)
    remarks: Counter[Remark] = Counter()
    for row in islice(rows, number):
        try:
            done = labelled(row, labeller)
        except TooLongError as error:
            raise DataError(f"{row.origin}: {error}") from None
        except RowError as error:
            found.refused.append(f"{row.origin}: {error}")
            continue
        remarks.update(done.remarks)
        examples = [example for example in done.examples if example.trained]
        found.shown.extend((example, row.origin) for example in examples)
        if not examples:
            found.untrained.append(row.origin)
    found.remarks.extend(remarked(remarks, {}))
    return found


def _at(place: str) -> Callable[[Origin], bool]:
    """Return a function that tells whether a row stands at *place*."""
    path, _, line = place.rpartition(":")
    if not path or not line.isdecimal():
        raise DataError(f"--source {place}: give the row as file:line, with lines counted from 1")

    def is_there(origin: Origin) -> bool:
        return origin.line == int(line) and (origin.path == path or _same(origin.path, path))

    return is_there


def _same(one: str, other: str) -> bool:
    return Path(one).name == other or (os.path.exists(other) and os.path.exists(one) and os.path.samefile(one, other))
