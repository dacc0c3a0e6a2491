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


def test_nothing():
    assert pack([], 8) == []
