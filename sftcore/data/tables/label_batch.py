"""Many rows at once, outlined one by one and tokenized together."""

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
from sftcore.data.sources.formats import Parsed
from sftcore.data.tables.arrow_arrays import digests, flags, large_lists, lists, numbers, strings
from sftcore.data.tables.table import LABEL_WARNINGS, SCHEMA, Flags, Integers
from sftcore.labelling import (
    LabelledConversation,
    Labeller,
    LabelWarning,
    RenderedColumns,
    RenderedConversation,
    TooLongError,
    truncate,
)
from sftcore.labelling.token_labels import label_columns
from sftcore.tokenization import TokenColumns


def labelled(row: Parsed, labeller: Labeller) -> LabelledConversation:
    """Return the examples of *row*, none longer than its policy says.

    Raises:
        RowError: it cannot be labelled with certainty.
    """
    return truncate(labeller, row.conversation, labeller.label(row.conversation, row.policy), row.policy)


class _Tokens(NamedTuple):
    """The tokens of many examples, one after another; ``weights`` is None where each trained one weighs 1."""

    ids: NDArray[np.int32]
    trained: Flags
    weights: NDArray[np.float64] | None

    def counts(self, borders: Integers) -> Integers:
        """Return how many tokens are trained between each two of *borders*."""
        counts = np.zeros(len(borders) - 1, np.int64)
        some = borders[:-1] < borders[1:]
        if some.any():
            counts[some] = np.add.reduceat(self.trained, borders[:-1][some], dtype=np.int64)
        return counts


_Outlined = RenderedConversation | RowError
"""What a row is before it is tokenized."""


class _Kept(NamedTuple):
    """The tokens of the examples that are kept: their borders among them, and of each the row, and what is trained."""

    tokens: _Tokens
    borders: Integers
    owner: Integers
    trained: Integers


class _Row(NamedTuple):
    """What became of a row: its examples made to fit, or None if they are its drafts as they are."""

    refused: RowError | None = None
    fitted: LabelledConversation | None = None


def tabulate(
    rows: Sequence[Parsed], labeller: Labeller, file: int = 0
) -> tuple[pa.RecordBatch, list[tuple[Parsed, RowError]]]:
    """Label *rows*, as :func:`labelled` does, and return them as Arrow, and those that cannot be labelled.

    Args:
        file: the number of the file that they come from.

    Raises:
        DataError: a row is too long, and the policy is to end the run.
    """
    outlines = [_outline(row, labeller) for row in rows]
    drafts = RenderedColumns.from_rows(outlines)
    columns = labeller.encoder.encode(drafts.texts)
    labels = label_columns(labeller.tokenizer, columns, drafts.spans, labeller.added_ids)
    tokens = _Tokens(columns.ids, labels.trained, labels.weights)
    merged = _merged(columns, drafts)
    refusals = {**columns.errors, **labels.rejected}

    owner = drafts.owners
    lengths = np.diff(columns.text_offsets)
    longest = np.zeros(len(rows), np.int64)
    np.maximum.at(longest, owner, lengths)
    limits = np.array([row.policy.max_length or np.iinfo(np.int64).max for row in rows], np.int64)
    became: dict[int, _Row] = {at: _Row(found) for at, found in enumerate(outlines) if isinstance(found, RowError)}
    for draft in sorted(refusals, reverse=True):
        became[int(owner[draft])] = _Row(refusals[draft])
    for at in np.flatnonzero(longest > limits).tolist():
        if at not in became:
            became[at] = _fitted(rows[at], outlines[at], labeller)

    warnings = _warnings(outlines, merged, owner, became)
    plain = np.ones(len(rows), bool)
    plain[list(became)] = False
    for at, row in became.items():
        longest[at] = row.fitted.longest if row.fitted else 0
    refused = {at: row.refused for at, row in sorted(became.items()) if row.refused}
    done = [at for at in range(len(rows)) if at not in refused]
    batch = _batch(
        [rows[at] for at in done],
        file,
        longest[done],
        _kept(tokens, columns.text_offsets, owner, plain, became),
        np.array(done, np.int64),
        [warnings[at] for at in done],
    )
    return batch, [(rows[at], error) for at, error in refused.items()]


def _outline(row: Parsed, labeller: Labeller) -> _Outlined:
    try:
        return labeller.render_with_plan(row.conversation, row.policy)
    except RowError as error:
        return error


def _fitted(row: Parsed, found: _Outlined, labeller: Labeller) -> _Row:
    """Return what becomes of a row that is too long.

    Raises:
        DataError: the policy is to end the run.
    """
    assert not isinstance(found, RowError)
    try:
        return _Row(fitted=truncate(labeller, row.conversation, labeller.tokenize(found), row.policy))
    except TooLongError as error:
        raise DataError(f"{row.origin}: {error}") from None
    except RowError as error:
        return _Row(error)


def _merged(columns: TokenColumns, drafts: RenderedColumns) -> Integers:
    """Return how many turns of each of *drafts* begin or end within a token."""
    crossed = np.zeros(len(drafts.turns), bool)
    for characters in drafts.edges.T:
        after, until = columns.tokens_around(drafts.turns, characters)
        crossed |= after < until
    return np.bincount(drafts.turns[crossed], minlength=len(drafts.texts))


def _warnings(
    outlines: Sequence[_Outlined], merged: Integers, owner: Integers, became: Mapping[int, _Row]
) -> list[list[tuple[int, int, str | None]]]:
    """Return for each row its warnings, as places in :data:`LABEL_WARNINGS`, with number of times and detail."""
    found: list[list[tuple[int, int, str | None]]] = []
    times_merged = np.bincount(owner, merged, len(outlines)).astype(np.int64).tolist()
    for at, outline in enumerate(outlines):
        said = became[at].fitted if at in became else outline
        here: list[tuple[int, int, str | None]] = []
        if isinstance(said, (RenderedConversation, LabelledConversation)):
            here = [
                (LABEL_WARNINGS.index(warning), times, said.details.get(warning))
                for warning, times in said.warnings.items()
                if times
            ]
        if times_merged[at] and at not in became:
            here.append((LABEL_WARNINGS.index(LabelWarning.CROSSED_BOUNDARY), times_merged[at], None))
        found.append(here)
    return found


def _kept(tokens: _Tokens, borders: Integers, owner: Integers, plain: Flags, became: Mapping[int, _Row]) -> _Kept:
    """Return the examples with a trained token: of *plain* rows as they are, of others as they were made to fit."""
    trained = tokens.counts(borders)
    kept = (trained > 0) & plain[owner]
    fitted = [
        (at, example) for at, row in became.items() if row.fitted for example in row.fitted.examples if example.trained
    ]
    if not fitted and kept.all():
        return _Kept(tokens, borders, owner, trained)
    weighted = tokens.weights is not None or any(example.weights is not None for _, example in fitted)
    pieces = [
        (
            int(owner[at]),
            tokens.ids[first:last],
            mask := tokens.trained[first:last],
            mask.astype(np.float64) if tokens.weights is None else tokens.weights[first:last],
        )
        for at in np.flatnonzero(kept).tolist()
        for first, last in [borders[at : at + 2]]
    ]
    for at, example in fitted:
        mask = np.asarray(example.labels, np.int64) != IGNORE_INDEX
        weights = mask.astype(np.float64) if example.weights is None else np.asarray(example.weights, np.float64)
        pieces.append((at, np.asarray(example.input_ids, np.int32), mask, weights))
    pieces.sort(key=lambda piece: piece[0])
    rows, ids, masks, weighs = zip(*pieces, strict=True) if pieces else ((), (), (), ())
    left = _Tokens(
        np.concatenate([np.empty(0, np.int32), *ids]),
        np.concatenate([np.empty(0, bool), *masks]),
        np.concatenate([np.empty(0), *weighs]) if weighted else None,
    )
    between = np.array([0, *accumulate(map(len, ids))], np.int64)
    return _Kept(left, between, np.array(rows, np.int64), left.counts(between))


def _batch(
    rows: Sequence[Parsed],
    file: int,
    longest: Integers,
    kept: _Kept,
    numbers_of_rows: Integers,
    warnings: list[list[tuple[int, int, str | None]]],
) -> pa.RecordBatch:
    """Return the columns of :data:`SCHEMA`.

    Args:
        numbers_of_rows: by which *kept* calls *rows*; it has no others.
    """
    tokens, borders, owner, trained = kept
    first = np.append(np.searchsorted(owner, numbers_of_rows), len(owner))
    lengths = np.diff(borders).astype(np.int32)
    too_long = [
        bool(row) and any(LABEL_WARNINGS[kind] is LabelWarning.TOO_LONG for kind, _, _ in row) for row in warnings
    ]
    weights = SCHEMA.field("weights").type
    arrays = [
        numbers(np.full(len(rows), file), pa.int32()),
        numbers([row.origin.line for row in rows], pa.int64()),
        digests([row.key for row in rows]),
        digests(_digests(tokens, lengths, borders, first)),
        flags(too_long),
        numbers(longest, pa.int32()),
        lists(first, numbers(lengths, pa.int32())),
        lists(first, numbers(trained, pa.int32())),
        large_lists(borders[first], numbers(tokens.ids, pa.int32())),
        large_lists(borders[first], flags(tokens.trained)),
        pa.nulls(len(rows), weights)
        if tokens.weights is None
        else large_lists(borders[first], numbers(tokens.weights, pa.float64())),
        _warnings_column(warnings),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _warnings_column(warnings: list[list[tuple[int, int, str | None]]]) -> pa.Array:
    kinds, times, details = (
        zip(*(warning for row in warnings for warning in row), strict=True) if any(warnings) else ((),) * 3
    )
    fields = list(SCHEMA.field("warnings").type.value_type)
    structs = pa.StructArray.from_arrays(
        [numbers(kinds, pa.int8()), numbers(times, pa.int32()), strings(details)], fields=fields
    )
    return lists(np.cumsum([0, *map(len, warnings)]), structs)


def _digests(tokens: _Tokens, lengths: NDArray[np.int32], borders: Integers, first: Integers) -> list[bytes]:
    """Return for each row the digest of its tokens, their labels and weights, and the borders of its examples."""
    found: list[bytes] = []
    ids, trained, weights = tokens
    labelled = ids * np.int32(2)
    labelled += trained
    view = labelled.data
    places = zip(pairwise(first.tolist()), pairwise(borders[first].tolist()), strict=True)
    for (begin, end), (start, stop) in places:
        here = slice(start, stop)
        digest = xxh3_128(view[here])
        if end - begin > 1:
            digest.update(lengths[begin:end].data)
        if weights is not None and not np.array_equal(weights[here], trained[here]):
            digest.update(weights[here].data)
        found.append(digest.digest())
    return found
