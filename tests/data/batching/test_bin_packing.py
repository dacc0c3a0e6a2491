"""Bins: nothing lost, nothing too long, as full as best fit makes them, and drawn by seed and epoch alone."""

from __future__ import annotations

import itertools
import random
import statistics
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftcore.data.batching.bin_packing import Bins, _best_fit, padding_share

from ...sizes import examples

LIMIT = 12
SETS = st.lists(st.integers(1, LIMIT), max_size=40)


def by_hand(lengths: list[int], chance: random.Random) -> int:
    """Return the number of rows of best fit, longest first, where chance chooses among equals."""
    free: list[int] = []
    order = sorted(lengths, key=lambda length: (-length, chance.random()))
    for length in order:
        fits = [room for room in free if room >= length]
        if fits:
            chosen = chance.choice([at for at, room in enumerate(free) if room == min(fits)])
            free[chosen] -= length
        else:
            free.append(LIMIT - length)
    return len(free)


def realistic(number: int, seed: int = 0) -> list[int]:
    """Return lengths as those of conversations: many short, few long, some cut at the limit of 2048."""
    return [min(round(length), 2048) for length in np.random.default_rng(seed).lognormal(6, 1, number) + 8]


@examples(300)
@given(SETS, st.integers(0, 2**63), st.integers(0, 9))
def test_every_document_has_one_place_and_no_row_is_too_long(lengths, seed, epoch):
    bins = Bins(lengths, LIMIT)
    for rows in (bins.fixed(), bins.shuffled(seed, epoch)):
        assert len(rows) == len(bins)
        assert sorted(itertools.chain(*rows)) == list(range(len(lengths)))
        assert all(0 < sum(lengths[number] for number in row) <= LIMIT for row in rows)


@examples(300)
@given(SETS, st.randoms(use_true_random=False))
def test_the_number_of_rows_is_that_of_best_fit_whoever_comes_first_among_equals(lengths, chance):
    assert len(Bins(lengths, LIMIT)) == by_hand(lengths, chance)


def test_the_order_of_documents_does_not_count():
    lengths = realistic(3000)
    shuffled = random.Random(1).sample(lengths, len(lengths))
    assert len(Bins(lengths, 2048)) == len(Bins(shuffled, 2048)) == len(Bins(np.array(shuffled), 2048))


def test_packed_rows_are_shuffled_by_seed_and_epoch_alone():
    bins, again = (Bins(realistic(500), 2048) for _ in range(2))
    first = list(bins.shuffled(7, 0))
    list(bins.shuffled(7, 1))
    np.random.seed(3)
    assert list(bins.shuffled(7, 0)) == first == list(again.shuffled(7, 0))


@pytest.mark.parametrize(("seed", "epoch"), [(7, 1), (8, 0)])
def test_another_epoch_or_seed_has_other_partners_and_another_order(seed, epoch):
    lengths = realistic(10_000)
    bins = Bins(lengths, 2048)
    one, other = list(bins.shuffled(7, 0)), list(bins.shuffled(seed, epoch))
    assert len(one) == len(other)
    shared = [set(row) for row in one if len(row) > 1]
    assert sum(set(row) in shared for row in other) < 0.2 * len(shared)
    totals = [[sum(lengths[number] for number in row) for row in rows] for rows in (one, other)]
    assert totals[0] != totals[1]
    assert sorted(totals[0]) == sorted(totals[1])


def test_equal_documents_have_equal_chances():
    """Documents 0 and 1 share their row with each of the others in about as many epochs."""
    bins = Bins([5] * 6, LIMIT)
    partners = Counter(
        number for epoch in range(3000) for row in bins.shuffled(1, epoch) if 0 in row for number in row if number
    )
    assert len(partners) == 5
    assert all(500 < times < 700 for times in partners.values())


def test_rows_are_not_in_the_order_of_their_fill():
    lengths = realistic(5000)
    bins = Bins(lengths, 2048)
    sizes = [len(row) for row in bins.shuffled(1, 0)]
    halves = statistics.mean(sizes[: len(sizes) // 2]), statistics.mean(sizes[len(sizes) // 2 :])
    assert halves[0] == pytest.approx(halves[1], rel=0.1)


def test_fixed_rows_come_as_their_first_documents_do():
    rows = list(Bins([5, 7, 12, 4, 8, 5], LIMIT).fixed())
    assert [min(row) for row in rows] == sorted(min(row) for row in rows)
    assert rows == list(Bins([5, 7, 12, 4, 8, 5], LIMIT).fixed())


def test_realistic_rows_are_99_percent_full():
    lengths = realistic(2000)
    bins = Bins(lengths, 2048)
    assert bins.fill > 0.99
    assert bins.fill == sum(lengths) / (len(bins) * 2048)


def test_the_work_grows_with_the_different_lengths_and_not_with_the_documents():
    def patterns(times: int) -> int:
        numbers = Counter(realistic(3000))
        return len(list(_best_fit([(length, numbers[length] * times) for length in sorted(numbers)[::-1]], 2048)))

    different = len(set(realistic(3000)))
    assert patterns(1) < 4 * different
    assert patterns(1000) < 4 * different


def test_nothing():
    bins = Bins([], LIMIT)
    assert (len(bins), list(bins.fixed()), list(bins.shuffled(1, 1)), bins.fill) == (0, [], [], 1.0)
    assert padding_share([], 4) == 0


@pytest.mark.parametrize("lengths", [[LIMIT + 1], [3, 0]])
def test_lengths_that_no_row_can_hold(lengths):
    with pytest.raises(ValueError, match="every length must be between 1 and 12"):
        Bins(lengths, LIMIT)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7])
def test_the_padding_is_what_all_orders_have_on_average(batch_size):
    lengths = [3, 9, 4, 4, 11]
    padded = []
    for order in itertools.permutations(lengths):
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        padded.append(sum(len(batch) * max(batch) for batch in batches))
    assert padding_share(lengths, batch_size) == pytest.approx(1 - sum(lengths) / statistics.mean(padded))
