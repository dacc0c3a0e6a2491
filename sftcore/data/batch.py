"""Many rows at once, outlined one by one and tokenized together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

from sftcore.data.conversations import Parsed
from sftcore.encoding import Columns
from sftcore.errors import RowError
from sftcore.supervision import Draft, Labelled, Labeller, Labelling, Outline, Remark, fit
from sftcore.supervision.tokens import LabelColumns, label_columns

ROWS = 2048
"""How many rows are tokenized together."""


def labelled(row: Parsed, labeller: Labeller) -> Labelling:
    """Return the examples of *row*, none longer than its policy says.

    Raises:
        RowError: it cannot be labelled with certainty.
    """
    return fit(labeller, row.conversation, labeller.label(row.conversation, row.policy), row.policy)


def labelled_many(rows: Sequence[Parsed], labeller: Labeller) -> Iterator[Labelling | RowError]:
    """Yield for each of *rows* what :func:`labelled` returns, or the error that it raises.

    The examples are without ``offsets``, ``stops`` and ``begins``, which nobody needs who trains on them.
    """
    for first in range(0, len(rows), ROWS):
        yield from _batch(rows[first : first + ROWS], labeller)


def _batch(rows: Sequence[Parsed], labeller: Labeller) -> Iterator[Labelling | RowError]:
    outlines = [_outline(row, labeller) for row in rows]
    counts = [len(outline.drafts) if isinstance(outline, Outline) else 0 for outline in outlines]
    drafts = [draft for outline in outlines if isinstance(outline, Outline) for draft in outline.drafts]
    columns = labeller.encoder.encode([draft.text for draft in drafts])
    spans = [draft.spans for draft in drafts]
    labels = label_columns(labeller.tokenizer, columns, spans, labeller.added_ids)
    merged = _merged(columns, drafts)
    lengths = np.diff(columns.rows).tolist()
    for row, outline, count, end in zip(rows, outlines, counts, accumulate(counts), strict=True):
        here = range(end - count, end)
        if isinstance(outline, RowError):
            yield outline
            continue
        refused = next((found[at] for at in here for found in (columns.refused, labels.refused) if at in found), None)
        longest = max((lengths[at] for at in here), default=0)
        limit = row.policy.max_length
        if refused is not None:
            yield refused
        elif limit is not None and longest > limit:
            yield _fitted(row, outline, labeller)
        else:
            outline.remarks[Remark.MERGED] += sum(merged[at] for at in here)
            examples = [_example(drafts[at], at, columns, labels) for at in here]
            yield Labelling(examples, outline.remarks, outline.details, longest)


def _outline(row: Parsed, labeller: Labeller) -> Outline | RowError:
    try:
        return labeller.outline_by_plan(row.conversation, row.policy)
    except RowError as error:
        return error


def _fitted(row: Parsed, outline: Outline, labeller: Labeller) -> Labelling | RowError:
    """Return the examples of a row that is too long."""
    try:
        return fit(labeller, row.conversation, labeller.tokenized(outline), row.policy)
    except RowError as error:
        return error


def _example(draft: Draft, at: int, columns: Columns, labels: LabelColumns) -> Labelled:
    here = slice(columns.rows[at], columns.rows[at + 1])
    weights = labels.weights[here].tolist() if draft.weighted and labels.weights is not None else None
    return Labelled(
        text=draft.text,
        input_ids=columns.ids[here].tolist(),
        labels=labels.labels[here].tolist(),
        weights=weights,
        offsets=[],
        stops=[],
        messages=draft.messages,
        turns=tuple(message for message, _ in draft.begins),
    )


def _merged(columns: Columns, drafts: Sequence[Draft]) -> list[int]:
    """Return how many turns of each of *drafts* begin or end within a token."""
    owners = np.array([at for at, draft in enumerate(drafts) for _ in draft.edges], np.int64)
    edges = np.array([edge for draft in drafts for edge in draft.edges], np.int64).reshape(-1, 2)
    crossed = np.zeros(len(owners), bool)
    for characters in edges.T:
        after, until = columns.borders(owners, characters)
        crossed |= after < until
    found: list[int] = np.bincount(owners[crossed], minlength=len(drafts)).tolist()
    return found
