"""How often rows stand in an epoch: repeat and share."""

from __future__ import annotations

import random

import pytest

from sftcore.config.schema import SourceConfig
from sftcore.data.selection import sample_times, target_rows

from ..making import keys


def source(**options):
    return SourceConfig("x", **options)


@pytest.mark.parametrize(
    ("sizes", "sources", "wanted"),
    [
        ([100, 7], [{}, {}], [100, 7]),
        ([100, 7], [{"repeat": 3}, {"repeat": 0.5}], [300, 4]),
        ([100, 7], [{"repeat": 0.001}, {}], [1, 7]),
        # beside sources without a share: a quarter of all is a third of the others
        ([300, 10], [{}, {"share": 0.25}], [300, 100]),
        ([300, 1000], [{}, {"share": 0.25}], [300, 100]),
        ([100, 1000], [{"repeat": 3}, {"share": 0.25}], [300, 100]),
        ([100, 20, 5, 5], [{}, {}, {"share": 0.5}, {"share": 0.3}], [100, 20, 300, 180]),
        # every source has a share: as many rows as were read
        ([1000, 100], [{"share": 0.5}, {"share": 0.5}], [550, 550]),
        ([10, 20, 30], [{"share": 0.333}] * 3, [20, 20, 20]),
        ([10], [{"share": 1}], [10]),
        ([1000, 1], [{"share": 0.9999}, {"share": 0.0001}], [1001, 1]),
        ([0, 4], [{"repeat": 3}, {}], [0, 4]),
    ],
)
def test_how_many_rows_a_source_gives(sizes, sources, wanted):
    assert target_rows(sizes, [source(**options) for options in sources]) == wanted


HUNDRED = list(map(str, range(100)))


def taken(texts, target, seed=42):
    times = sample_times(keys(*texts), target, seed)
    return {text: often for text, often in zip(texts, times.tolist(), strict=True) if often}


@pytest.mark.parametrize("target", [1, 30, 99, 100, 101, 250, 300])
def test_rows_are_taken_equally_often_or_once_more(target):
    times = sample_times(keys(*HUNDRED), target, 42)
    assert (len(times), times.sum()) == (100, target)
    assert set(times.tolist()) <= {target // 100, target // 100 + 1}


@pytest.mark.parametrize("target", [30, 130])
def test_which_ones_depends_on_content_and_seed_not_on_order(target):
    first = taken(HUNDRED, target)
    assert taken(random.Random(1).sample(HUNDRED, 100), target) == first
    assert taken(HUNDRED, target, 43) != first


def test_a_larger_sample_contains_the_smaller_one():
    assert taken(HUNDRED, 20).keys() < taken(HUNDRED, 40).keys()


def test_of_equal_rows_the_first_are_taken():
    times = sample_times(keys(*"ab" * 100), 30, 42)
    assert times.sum() == 30
    assert [1] * 30 in (times[:60:2].tolist(), times[1:60:2].tolist())


def test_of_no_rows_none_are_taken():
    assert sample_times(keys(), 0, 42).tolist() == []
