"""Joining short rows into full ones."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from sftcore.data.collate import weights_of
from sftcore.types import IGNORE_INDEX, Example


def pack(examples: Sequence[Example], max_length: int) -> list[Example]:
    """Join *examples* into rows of at most *max_length* tokens, by best fit, longest first.

    Whole examples only. ``lengths`` keeps where each begins, from which the collator makes
    position ids that start anew, so that attention sees one document at a time. The first
    label of a document is ignored: no token of another document predicts it.

    Best fit decreasing is the classical bin-packing heuristic (Johnson et al., 1974).
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    order = sorted(range(len(examples)), key=lambda index: (-len(examples[index].input_ids), index))
    for index in order:
        length = len(examples[index].input_ids)
        at = bisect_left(room, (length, -1))
        if at < len(room):
            free, row = room.pop(at)
        else:
            free, row = max_length, len(rows)
            rows.append([])
        rows[row].append(index)
        insort(room, (free - length, row))
    return [_join([examples[index] for index in row]) for row in rows]


def _join(parts: Sequence[Example]) -> Example:
    labels: list[int] = []
    for part in parts:
        labels += [IGNORE_INDEX, *part.labels[1:]]
    weighted = any(part.weights is not None for part in parts)
    return Example(
        input_ids=[token for part in parts for token in part.input_ids],
        labels=labels,
        lengths=[length for part in parts for length in part.lengths],
        origins=[origin for part in parts for origin in part.origins],
        weights=[weight for part in parts for weight in (0.0, *weights_of(part)[1:])] if weighted else None,
    )
