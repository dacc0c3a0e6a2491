"""The drafts of many rows, as columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sftcore.core.errors import RowError
from sftcore.labelling.boundaries import Borders, Integers
from sftcore.labelling.draft import Draft, Outline
from sftcore.labelling.fast_path.plan import Sketch
from sftcore.labelling.spans import SpanColumns


class DraftColumns(NamedTuple):
    """The drafts of many rows, one after another.

    Attributes:
        texts: the text of each.
        owners: int64, (drafts,): the number of its row.
        spans: what is trained; their owners are drafts.
        turns: int64, (turns,): of each turn the number of its draft.
        edges: int64, (turns, 2): where it begins and ends, in characters of its draft.
    """

    texts: list[str]
    owners: Integers
    spans: SpanColumns
    turns: Integers
    edges: Integers

    @classmethod
    def of(cls, rows: Sequence[Sketch | Outline | RowError]) -> DraftColumns:
        """Return the drafts of *rows*; one that is refused has none."""
        drafts: list[Sketch | Draft] = []
        counts: list[int] = []
        for row in rows:
            if isinstance(row, Sketch):
                drafts.append(row)
                counts.append(1)
            else:
                found = [] if isinstance(row, RowError) else row.drafts
                drafts += found
                counts.append(len(found))
        borders = [draft.plan.borders if isinstance(draft, Sketch) else _borders(draft) for draft in drafts]
        parts = [draft.texts if isinstance(draft, Sketch) else () for draft in drafts]
        before = _sums(map(len, chain.from_iterable(parts)))
        first = _sums(map(len, parts))

        def characters(places: list[NDArray[np.int64]]) -> tuple[Integers, Integers]:
            """Return for each two of *places* its draft, and in which characters of it they are."""
            owners = np.repeat(np.arange(len(places)), np.fromiter(map(len, places), np.int64, len(places)))
            flat = np.concatenate([np.empty((0, 2, 2), np.int64), *places])
            begin = first[owners][:, np.newaxis]
            return owners, before[begin + flat[:, :, 0]] - before[begin] + flat[:, :, 1]

        owners, spans = characters([one.spans for one in borders])
        weights = np.concatenate([np.empty(0), *[one.weights for one in borders]])
        return cls(
            [draft.text for draft in drafts],
            np.repeat(np.arange(len(rows)), np.array(counts, np.int64)),
            SpanColumns(owners, spans[:, 0], spans[:, 1], weights),
            *characters([one.edges for one in borders]),
        )


def _borders(draft: Draft) -> Borders:
    """Return where the spans and turns of a *draft* are that has no texts of its own."""
    return Borders.of(
        [((0, start), (0, end), weight) for start, end, weight in draft.spans],
        [((0, start), (0, end)) for start, end in draft.edges],
    )


def _sums(numbers: Iterable[int]) -> Integers:
    """Return 0, and the sum of *numbers* up to each."""
    return np.cumsum(np.fromiter(chain([0], numbers), np.int64))
