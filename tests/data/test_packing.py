"""Packing: whole examples, nothing lost, nothing too long."""

from __future__ import annotations

import random

import pytest

from sftcore import Example, Origin
from sftcore.data.packing import pack


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


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_no_example_is_split_lost_or_moved_over_the_limit(lengths):
    given = examples(lengths)
    rows = pack(given, 8)
    found = []
    for row in rows:
        assert sum(row.lengths) == len(row.input_ids) == len(row.labels) <= 8
        assert len(row.lengths) == len(row.origins)
        start = 0
        for length, origin in zip(row.lengths, row.origins, strict=True):
            document = row.input_ids[start : start + length]
            assert document == given[origin.line].input_ids
            assert row.labels[start : start + length] == [-100, *document[1:]]
            found.append(origin.line)
            start += length
    assert sorted(found) == list(range(len(lengths)))
    assert rows == pack(given, 8)


def test_rows_are_filled():
    assert sorted(len(row.input_ids) for row in pack(examples([3, 8, 1, 5, 5, 2, 7, 1]), 8)) == [8] * 4
    assert len(pack(examples(LENGTHS["random"]), 8)) <= sum(LENGTHS["random"]) / 8 * 1.05


def test_weights_stay_with_their_tokens():
    weighted = Example([7, 8, 9], [7, -100, 9], (3,), (Origin("f", 0),), [0.5, 0.0, 0.3])
    unweighted = Example([5, 6, 4, 3], [-100, -100, 4, 3], (4,), (Origin("f", 1),))
    (row,) = pack([weighted, unweighted], 8)
    assert row.labels == [-100, -100, 4, 3, -100, -100, 9]
    assert row.weights == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.3]


def test_no_weights_where_none_are_given():
    assert [row.weights for row in pack(examples([3, 4, 8]), 8)] == [None, None]


def test_nothing():
    assert pack([], 8) == []
