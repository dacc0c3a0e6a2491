"""Many rows at once: rendered one by one, tokenized in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from xxhash import xxh3_128

from sftcore.core.errors import DataError, RowError
from sftcore.core.types import IGNORE_INDEX
from sftcore.data.sources.formats import ParsedRow
from sftcore.data.tables.arrow_arrays import (
    bool_array,
    digest_array,
    large_list_array,
    list_array,
    number_array,
    string_array,
)
from sftcore.data.tables.table import LABEL_WARNINGS, SCHEMA, Flags, Integers
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


def label_row(row: ParsedRow, labeller: Labeller, policy: Policy) -> LabelledConversation:
    """The examples of *row*, none longer than *policy* says.

    Raises:
        RowError: it cannot be labelled with certainty.
    """
    return truncate(labeller, row.conversation, labeller.label(row.conversation, policy), policy)


class _Tokens(NamedTuple):
    """The tokens of many examples, one after another; ``weights`` is None where each trained one weighs 1."""

    ids: NDArray[np.int32]
    trained: Flags
    weights: NDArray[np.float64] | None

    def counts(self, offsets: Integers) -> Integers:
        """The number of trained tokens between each two of *offsets*."""
        counts = np.zeros(len(offsets) - 1, np.int64)
        some = offsets[:-1] < offsets[1:]
        if some.any():
            counts[some] = np.add.reduceat(self.trained, offsets[:-1][some], dtype=np.int64)
        return counts


_Warnings = list[tuple[int, int, str | None]]
"""Warnings about a row: positions in :data:`LABEL_WARNINGS`, each with number of times and detail."""

_TOO_LONG = LABEL_WARNINGS.index(LabelWarning.TOO_LONG)

_Rendered = RenderedConversation | RowError
"""A row before it is tokenized."""


class _KeptExamples(NamedTuple):
    """The tokens of the examples that are kept, their offsets in these, and of each its row and trained tokens."""

    tokens: _Tokens
    offsets: Integers
    owner: Integers
    trained: Integers


class _SpecialRow(NamedTuple):
    """A row whose examples are not those that were rendered: it has an error, or was truncated."""

    error: RowError | None = None
    truncated: LabelledConversation | None = None


def label_rows(
    rows: Sequence[ParsedRow], labeller: Labeller, policy: Policy, file: int = 0
) -> tuple[pa.RecordBatch, list[tuple[ParsedRow, RowError]]]:
    """Label *rows* as :func:`label_row` does.

    Args:
        file: the number of the file that they come from.

    Returns:
        A batch with the columns of :data:`SCHEMA`, and the rows that cannot be labelled.

    Raises:
        DataError: a row is too long, and the policy is to end the run.
    """
    rendered = [_render(row, labeller, policy) for row in rows]
    examples = RenderedColumns.from_rows(rendered)
    columns = labeller.encoder.encode(examples.texts)
    labels = label_columns(labeller.tokenizer, columns, examples.spans, labeller.added_ids)
    tokens = _Tokens(columns.ids, labels.trained, labels.weights)
    merged = _merged(columns, examples)
    errors = {**columns.errors, **labels.rejected}

    owner = examples.owners
    lengths = np.diff(columns.text_offsets)
    longest = np.zeros(len(rows), np.int64)
    np.maximum.at(longest, owner, lengths)
    special: dict[int, _SpecialRow] = {
        at: _SpecialRow(error) for at, error in enumerate(rendered) if isinstance(error, RowError)
    }
    for example in sorted(errors, reverse=True):
        special[int(owner[example])] = _SpecialRow(errors[example])
    for at in np.flatnonzero(longest > (policy.max_length or np.iinfo(np.int64).max)).tolist():
        if at not in special:
            special[at] = _truncated(rows[at], rendered[at], labeller, policy)

    warnings = _warnings(rendered, merged, owner, special)
    plain = np.ones(len(rows), bool)
    plain[list(special)] = False
    for at, row in special.items():
        longest[at] = row.truncated.longest if row.truncated else 0
    failed = {at: row.error for at, row in sorted(special.items()) if row.error}
    labelled = [at for at in range(len(rows)) if at not in failed]
    batch = _batch(
        [rows[at] for at in labelled],
        file,
        longest[labelled],
        _kept(tokens, columns.text_offsets, owner, plain, special),
        np.array(labelled, np.int64),
        [warnings[at] for at in labelled],
    )
    return batch, [(rows[at], error) for at, error in failed.items()]


def _render(row: ParsedRow, labeller: Labeller, policy: Policy) -> _Rendered:
    try:
        return labeller.render_with_plan(row.conversation, policy)
    except RowError as error:
        return error


def _truncated(row: ParsedRow, rendered: _Rendered, labeller: Labeller, policy: Policy) -> _SpecialRow:
    """The result of truncating a row that is too long.

    Raises:
        DataError: the policy is to end the run.
    """
    assert not isinstance(rendered, RowError)
    try:
        return _SpecialRow(truncated=truncate(labeller, row.conversation, labeller.tokenize(rendered), policy))
    except TooLongError as error:
        raise DataError(f"{row.origin}: {error}") from None
    except RowError as error:
        return _SpecialRow(error)


def _merged(columns: TokenColumns, examples: RenderedColumns) -> Integers:
    """For each of *examples* the number of turns that begin or end within a token."""
    crossed = np.zeros(len(examples.turns), bool)
    for characters in examples.edges.T:
        after, until = columns.tokens_around(examples.turns, characters)
        crossed |= after < until
    return np.bincount(examples.turns[crossed], minlength=len(examples.texts))


def _warnings(
    rendered: Sequence[_Rendered], merged: Integers, owner: Integers, special: Mapping[int, _SpecialRow]
) -> list[_Warnings]:
    """The warnings on each row."""
    warnings: list[_Warnings] = []
    times_merged = np.bincount(owner, merged, len(rendered)).astype(np.int64).tolist()
    for at, row in enumerate(rendered):
        result = special[at].truncated if at in special else row
        own: _Warnings = []
        if isinstance(result, (RenderedConversation, LabelledConversation)):
            own = [
                (LABEL_WARNINGS.index(warning), times, result.details.get(warning))
                for warning, times in result.warnings.items()
                if times
            ]
        if times_merged[at] and at not in special:
            own.append((LABEL_WARNINGS.index(LabelWarning.CROSSED_BOUNDARY), times_merged[at], None))
        warnings.append(own)
    return warnings


def _kept(
    tokens: _Tokens, offsets: Integers, owner: Integers, plain: Flags, special: Mapping[int, _SpecialRow]
) -> _KeptExamples:
    """The examples with a trained token: of *plain* rows as they are, of others truncated."""
    trained = tokens.counts(offsets)
    kept = (trained > 0) & plain[owner]
    truncated = [
        (at, example)
        for at, row in special.items()
        if row.truncated
        for example in row.truncated.examples
        if example.trained
    ]
    if not truncated and kept.all():
        return _KeptExamples(tokens, offsets, owner, trained)
    weighted = tokens.weights is not None or any(example.weights is not None for _, example in truncated)
    pieces = [
        (
            int(owner[at]),
            tokens.ids[first:last],
            mask := tokens.trained[first:last],
            mask.astype(np.float64) if tokens.weights is None else tokens.weights[first:last],
        )
        for at in np.flatnonzero(kept).tolist()
        for first, last in [offsets[at : at + 2]]
    ]
    for at, example in truncated:
        mask = np.asarray(example.labels, np.int64) != IGNORE_INDEX
        weights = mask.astype(np.float64) if example.weights is None else np.asarray(example.weights, np.float64)
        pieces.append((at, np.asarray(example.input_ids, np.int32), mask, weights))
    pieces.sort(key=lambda piece: piece[0])
    rows, ids, masks, all_weights = zip(*pieces, strict=True) if pieces else ((), (), (), ())
    remaining = _Tokens(
        np.concatenate([np.empty(0, np.int32), *ids]),
        np.concatenate([np.empty(0, bool), *masks]),
        np.concatenate([np.empty(0), *all_weights]) if weighted else None,
    )
    new_offsets = np.array([0, *accumulate(map(len, ids))], np.int64)
    return _KeptExamples(remaining, new_offsets, np.array(rows, np.int64), remaining.counts(new_offsets))


def _batch(
    rows: Sequence[ParsedRow],
    file: int,
    longest: Integers,
    kept: _KeptExamples,
    row_numbers: Integers,
    warnings: list[_Warnings],
) -> pa.RecordBatch:
    """A batch with the columns of :data:`SCHEMA`.

    Args:
        row_numbers: of *rows* in *kept*, which has no others.
    """
    tokens, offsets, owner, trained = kept
    first = np.append(np.searchsorted(owner, row_numbers), len(owner))
    lengths = np.diff(offsets).astype(np.int32)
    too_long = [any(kind == _TOO_LONG for kind, _, _ in row) for row in warnings]
    weights = SCHEMA.field("weights").type
    arrays = [
        number_array(np.full(len(rows), file), pa.int32()),
        number_array([row.origin.line for row in rows], pa.int64()),
        digest_array([row.key for row in rows]),
        digest_array(_digests(tokens, lengths, offsets, first)),
        bool_array(too_long),
        number_array(longest, pa.int32()),
        list_array(first, number_array(lengths, pa.int32())),
        list_array(first, number_array(trained, pa.int32())),
        large_list_array(offsets[first], number_array(tokens.ids, pa.int32())),
        large_list_array(offsets[first], bool_array(tokens.trained)),
        pa.nulls(len(rows), weights)
        if tokens.weights is None
        else large_list_array(offsets[first], number_array(tokens.weights, pa.float64())),
        _warning_array(warnings),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _warning_array(warnings: list[_Warnings]) -> pa.Array:
    kinds, times, details = (
        zip(*(warning for row in warnings for warning in row), strict=True) if any(warnings) else ((),) * 3
    )
    fields = list(SCHEMA.field("warnings").type.value_type)
    structs = pa.StructArray.from_arrays(
        [number_array(kinds, pa.int8()), number_array(times, pa.int32()), string_array(details)], fields=fields
    )
    return list_array(np.cumsum([0, *map(len, warnings)]), structs)


def _digests(tokens: _Tokens, lengths: NDArray[np.int32], offsets: Integers, first: Integers) -> list[bytes]:
    """The digest of the tokens of each row, their labels and weights, and the lengths of its examples."""
    digests: list[bytes] = []
    ids, trained, weights = tokens
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
