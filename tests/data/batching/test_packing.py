"""Packed rows: whole examples, nothing lost, nothing too long; the same for every worker and rank."""

from __future__ import annotations

import random

import pytest

from sftcore.data.batching.collator import Collator
from sftcore.data.batching.packing import PackedSet, join
from sftcore.data.row_types import Example, Origin


def examples(lengths):
    return [
        Example([number] * length, [number] * length, (length,), (Origin("f", number),))
        for number, length in enumerate(lengths)
    ]


LENGTHS = {
    "one": [5],
    "full": [8, 8, 8],
    "mixed": [3, 8, 1, 5, 5, 2, 7, 1, 4],
    "random": random.Random(3).choices(range(1, 9), k=200),
}


@pytest.mark.parametrize("shuffled", [None, 1])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_no_example_is_split_lost_or_moved_over_the_limit(lengths, shuffled):
    given = examples(lengths)
    packed = PackedSet(given, 8)
    rows = [*packed] if shuffled is None else [packed[row] for row in packed.bins.shuffled(shuffled, 0)]
    assert len(rows) == len(packed)
    found = []
    for row in rows:
        assert sum(row.lengths) == len(row.input_ids) == len(row.labels) <= 8
        assert len(row.lengths) == len(row.origins)
        start = 0
        for length, origin in zip(row.lengths, row.origins, strict=True):
            document = row.input_ids[start : start + length].tolist()
            assert document == given[origin.line].input_ids
            assert row.labels[start : start + length].tolist() == [-100, *document[1:]]
            found.append(origin.line)
            start += length
    assert sorted(found) == list(range(len(lengths)))


def test_rows_are_filled():
    assert sorted(len(row.input_ids) for row in PackedSet(examples([3, 8, 1, 5, 5, 2, 7, 1]), 8)) == [8] * 4
    assert len(PackedSet(examples(LENGTHS["random"]), 8)) <= sum(LENGTHS["random"]) / 8 * 1.05


def test_packed_rows_are_shuffled_for_each_epoch():
    packed = PackedSet(examples(LENGTHS["random"]), 8)
    epochs = [list(packed.bins.shuffled(3, epoch)) for epoch in (0, 1, 2, 0)]
    assert {len(rows) for rows in epochs} == {len(packed)}
    assert epochs[0] == epochs[3]
    assert len({tuple(rows) for rows in epochs}) == 3


def test_a_copy_gives_the_same_rows():
    """As workers hold one: they are asked by the numbers of documents, or for a row that is fixed."""
    packed, stale = (PackedSet(examples(LENGTHS["random"]), 8) for _ in range(2))
    for row in [*packed.bins.shuffled(3, 0), 0, 7]:
        assert stale[row].input_ids.tolist() == packed[row].input_ids.tolist()
        assert stale[row].origins == packed[row].origins


def test_no_label_is_predicted_by_another_document():
    """In a batch the token before each document has no label to predict, whether rows stand apart or end to end."""
    packed = PackedSet(examples(LENGTHS["mixed"]), 8)
    for flat in (False, True):
        batch = Collator(99, packed=True, flat=flat)([*packed])
        starts = batch["position_ids"] == 0
        assert starts.sum() >= len(LENGTHS["mixed"])
        assert (batch["labels"][starts] == -100).all()
        trained = batch["labels"] != -100
        assert (batch["labels"][trained] == batch["input_ids"][trained]).all()
        assert trained.sum() == sum(length - 1 for length in LENGTHS["mixed"])


def test_weights_stay_with_their_tokens():
    weighted = Example([7, 8, 9], [7, -100, 9], (3,), (Origin("f", 0),), [0.5, 0.0, 0.3])
    unweighted = Example([5, 6, 4, 3], [-100, -100, 4, 3], (4,), (Origin("f", 1),))
    row = join([unweighted, weighted])
    assert row.labels.tolist() == [-100, -100, 4, 3, -100, -100, 9]
    assert row.weights.tolist() == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.3]


def test_no_weights_where_none_are_given():
    assert [row.weights for row in PackedSet(examples([3, 4, 8]), 8)] == [None, None]


def test_nothing():
    packed = PackedSet([], 8)
    assert [*packed] == [*packed.bins.shuffled(1, 0)] == []
    assert not packed
