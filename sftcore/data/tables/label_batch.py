"""Many rows at once: rendered one by one, tokenized in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from xxhash import xxh3_128

from sftcore.core.errors import DataError, RowError
from sftcore.core.types import IGNORE_INDEX
from sftcore.data.sources.formats import ParsedRow
from sftcore.data.tables.table import LABEL_WARNINGS, SCHEMA, Flags, Integers, to_arrow
from sftcore.labelling import (
    LabelledConversation,
    Labeller,
    LabelWarning,
    Policy,
    RenderedColumns,
    RenderedConversation,
    TooLongError,
    truncate,
)
from sftcore.labelling.token_labels import label_columns
from sftcore.tokenization import TokenColumns

_Rendered = RenderedConversation | RowError  # a row before it is tokenized

_Special = LabelledConversation | RowError
"""A row whose examples are not those that were rendered: it was truncated, or cannot be labelled."""

_Warnings = list[tuple[int, int, str | None]]
"""Warnings about a row: positions in :data:`LABEL_WARNINGS`, each with number of times and detail."""

_TOO_LONG = LABEL_WARNINGS.index(LabelWarning.TOO_LONG)


def label_row(row: ParsedRow, labeller: Labeller, policy: Policy) -> LabelledConversation:
    """The examples of *row*, none longer than *policy* says.

    Raises:
        RowError: it cannot be labelled with certainty.
    """
    return truncate(labeller, row.conversation, labeller.label(row.conversation, policy), policy)


class _Examples(NamedTuple):
    """The tokens of examples, one after another."""

    ids: NDArray[np.int32]
    trained: Flags
    weights: NDArray[np.float64] | None  # None where each trained token weighs 1
    offsets: Integers  # where each example begins, and the last ends
    owner: Integers  # number of the row of each example

    def trained_tokens(self) -> Integers:
        """The number of trained tokens of each example."""
        starts, ends = self.offsets[:-1], self.offsets[1:]
        counts = np.zeros(len(starts), np.int64)
        if (some := starts < ends).any():
            counts[some] = np.add.reduceat(self.trained, starts[some], dtype=np.int64)
        return counts


def label_rows(
    rows: Sequence[ParsedRow], labeller: Labeller, policy: Policy, file: int = 0
) -> tuple[pa.RecordBatch, list[tuple[ParsedRow, RowError]]]:
    """*rows* of the *file* of this number, labelled as :func:`label_row` does, and those that cannot be labelled.

    The batch has the columns of :data:`SCHEMA`.

    Raises:
        DataError: a row is too long, and the policy is to end the run.
    """
    rendered = [_render(row, labeller, policy) for row in rows]
    texts = RenderedColumns.from_rows(rendered)
    columns = labeller.encoder.encode(texts.texts)
    labels = label_columns(labeller.tokenizer, columns, texts.spans, labeller.added_ids)
    examples = _Examples(columns.ids, labels.trained, labels.weights, columns.text_offsets, texts.owners)
    errors = {**columns.errors, **labels.rejected}

    longest = np.zeros(len(rows), np.int64)
    np.maximum.at(longest, examples.owner, np.diff(examples.offsets))
    special: dict[int, _Special] = {at: error for at, error in enumerate(rendered) if isinstance(error, RowError)}
    for example in sorted(errors, reverse=True):
        special[int(examples.owner[example])] = errors[example]
    for at in np.flatnonzero(longest > (policy.max_length or np.iinfo(np.int64).max)).tolist():
        if at not in special:
            special[at] = _truncated(rows[at], rendered[at], labeller, policy)
    for at, row in special.items():
        longest[at] = 0 if isinstance(row, RowError) else row.longest

    merged = np.bincount(texts.owners, _merged(columns, texts), len(rows)).astype(np.int64)
    warnings = _warnings(rendered, merged, special)
    failed = {at: row for at, row in sorted(special.items()) if isinstance(row, RowError)}
    labelled = [at for at in range(len(rows)) if at not in failed]
    batch = _batch(
        [rows[at] for at in labelled],
        file,
        longest[labelled],
        *_kept(examples, special),
        np.array(labelled, np.int64),
        [warnings[at] for at in labelled],
    )
    return batch, [(rows[at], error) for at, error in failed.items()]


def _render(row: ParsedRow, labeller: Labeller, policy: Policy) -> _Rendered:
    try:
        return labeller.render_with_plan(row.conversation, policy)
    except RowError as error:
        return error


def _truncated(row: ParsedRow, rendered: _Rendered, labeller: Labeller, policy: Policy) -> _Special:
    """A row that is too long, truncated; or a DataError, if the policy is to end the run."""
    assert not isinstance(rendered, RowError)
    try:
        return truncate(labeller, row.conversation, labeller.tokenize(rendered), policy)
    except TooLongError as error:
        raise DataError(f"{row.origin}: {error}") from None
    except RowError as error:
        return error


def _merged(columns: TokenColumns, texts: RenderedColumns) -> Integers:
    """For each of *texts* the number of turns that begin or end within a token."""
    crossed = np.zeros(len(texts.turns), bool)
    for characters in texts.edges.T:
        after, until = columns.tokens_around(texts.turns, characters)
        crossed |= after < until
    return np.bincount(texts.turns[crossed], minlength=len(texts.texts))


def _warnings(rendered: Sequence[_Rendered], merged: Integers, special: Mapping[int, _Special]) -> list[_Warnings]:
    """The warnings on each row."""
    warnings: list[_Warnings] = []
    for at, (row, times_merged) in enumerate(zip(rendered, merged.tolist(), strict=True)):
        result = special.get(at, row)
        own: _Warnings = []
        if not isinstance(result, RowError):
            own = [
                (LABEL_WARNINGS.index(warning), times, result.details.get(warning))
                for warning, times in result.warnings.items()
                if times
            ]
        if times_merged and at not in special:
            own.append((LABEL_WARNINGS.index(LabelWarning.CROSSED_BOUNDARY), times_merged, None))
        warnings.append(own)
    return warnings


def _kept(examples: _Examples, special: Mapping[int, _Special]) -> tuple[_Examples, Integers]:
    """The examples with a trained token, those of *special* rows as truncated; and the trained tokens of each."""
    ids, trained, weights, offsets, owner = examples
    trained_tokens = examples.trained_tokens()
    kept = (trained_tokens > 0) & ~np.isin(owner, list(special))
    truncated = [
        (at, example)
        for at, row in special.items()
        if isinstance(row, LabelledConversation)
        for example in row.examples
        if example.trained
    ]
    if not truncated and kept.all():
        return examples, trained_tokens
    weighted = weights is not None or any(example.weights is not None for _, example in truncated)
    pieces = [
        (
            int(owner[at]),
            ids[first:last],
            mask := trained[first:last],
            mask.astype(np.float64) if weights is None else weights[first:last],
        )
        for at in np.flatnonzero(kept).tolist()
        for first, last in [offsets[at : at + 2]]
    ]
    for at, example in truncated:
        mask = np.asarray(example.labels, np.int64) != IGNORE_INDEX
        own_weights = mask.astype(np.float64) if example.weights is None else np.asarray(example.weights, np.float64)
        pieces.append((at, np.asarray(example.input_ids, np.int32), mask, own_weights))
    pieces.sort(key=lambda piece: piece[0])
    rows, all_ids, masks, all_weights = zip(*pieces, strict=True) if pieces else ((), (), (), ())
    remaining = _Examples(
        np.concatenate([np.empty(0, np.int32), *all_ids]),
        np.concatenate([np.empty(0, bool), *masks]),
        np.concatenate([np.empty(0), *all_weights]) if weighted else None,
        np.cumsum([0, *map(len, all_ids)]),
        np.array(rows, np.int64),
    )
    return remaining, remaining.trained_tokens()


def _batch(
    rows: Sequence[ParsedRow],
    file: int,
    longest: Integers,
    examples: _Examples,
    trained_tokens: Integers,
    row_numbers: Integers,
    warnings: list[_Warnings],
) -> pa.RecordBatch:
    """A batch with the columns of :data:`SCHEMA`; *examples* has *rows* by their *row_numbers*, and no others."""
    ids, trained, weights, offsets, owner = examples
    first = np.append(np.searchsorted(owner, row_numbers), len(owner))
    lengths = np.diff(offsets).astype(np.int32)
    tokens_of_rows = offsets[first]
    kinds, times, details = zip(*chain.from_iterable(warnings), strict=True) if any(warnings) else ((),) * 3
    warning_type = SCHEMA.field("warnings").type.value_type
    columns: list[tuple[Any, ...]] = [  # values, and offsets of lists
        (np.full(len(rows), file),),
        ([row.origin.line for row in rows],),
        ([row.key for row in rows],),
        (_digests(examples, lengths, first),),
        ([any(kind == _TOO_LONG for kind, _, _ in row) for row in warnings],),
        (longest,),
        (lengths, first),
        (trained_tokens, first),
        (ids, tokens_of_rows),
        (trained, tokens_of_rows),
        (weights, tokens_of_rows),
        (
            pa.StructArray.from_arrays(
                map(to_arrow, (field.type for field in warning_type), (kinds, times, details)),
                fields=list(warning_type),
            ),
            np.cumsum([0, *map(len, warnings)]),
        ),
    ]
    arrays = [
        pa.nulls(len(rows), field.type) if values is None else to_arrow(field.type, values, *offsets)
        for field, (values, *offsets) in zip(SCHEMA, columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _digests(examples: _Examples, lengths: NDArray[np.int32], first: Integers) -> list[bytes]:
    """The digest of the tokens of each row, their labels and weights, and the lengths of its examples."""
    ids, trained, weights, offsets, _ = examples
    digests: list[bytes] = []
    labelled = ids * np.int32(2)
    labelled += trained
    view = labelled.data
    ranges = zip(pairwise(first.tolist()), pairwise(offsets[first].tolist()), strict=True)
    for (begin, end), (start, stop) in ranges:
        own = slice(start, stop)
        digest = xxh3_128(view[own])
        if end - begin > 1:
            digest.update(lengths[begin:end].data)
        if weights is not None and not np.array_equal(weights[own], trained[own]):
            digest.update(weights[own].data)
        digests.append(digest.digest())
    return digests
