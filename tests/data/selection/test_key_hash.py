"""Chance by content: equal keys have equal luck, others unrelated luck."""

from __future__ import annotations

import numpy as np
import pytest

from sftcore.data.selection import uniform
from sftcore.data.tables.table import DIGEST

from ..making import keys

COUNTING = np.arange(2 * 10_000, dtype="<u8").view(f"V{DIGEST}")
"""Keys as alike as they can be."""


def test_a_key_has_the_same_number_wherever_it_stands():
    together = dict(zip("abc", uniform(keys("a", "b", "c"), "x").tolist(), strict=True))
    assert uniform(keys("c", "a", "c"), "x").tolist() == [together["c"], together["a"], together["c"]]
    assert len(set(together.values())) == 3


def test_the_numbers_are_the_same_in_every_version():
    assert uniform(keys("a", "b"), "draw 42").tolist() == [2833495150983682647, 17355757436871055475]


def test_no_keys_have_no_numbers():
    assert uniform(keys(), "x").tolist() == []


@pytest.mark.parametrize("salts", [("draw 42", "draw 43"), ("draw 42", "evaluation 42"), ("1", "11")])
def test_another_salt_has_unrelated_numbers(salts):
    first, second = (uniform(COUNTING, salt) / 2**64 for salt in salts)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


@pytest.mark.parametrize("bits", ["the highest", "the lowest"])
def test_the_numbers_are_spread_evenly(bits):
    drawn = uniform(COUNTING, "x")
    buckets = np.bincount((drawn >> np.uint64(60) if bits == "the highest" else drawn & np.uint64(15)).astype(int))
    assert len(buckets) == 16
    assert all(abs(bucket - 625) < 125 for bucket in buckets)  # five times the standard deviation


def test_every_bit_of_a_key_counts():
    key = int.from_bytes(b"a key of 16 byte", "little")
    flipped = [key, *(key ^ (1 << bit) for bit in range(8 * DIGEST))]
    found = uniform(np.frombuffer(b"".join(one.to_bytes(DIGEST, "little") for one in flipped), f"V{DIGEST}"), "x")
    changed = [(number ^ int(found[0])).bit_count() for number in found[1:].tolist()]
    assert min(changed) > 12
    assert max(changed) < 52
    assert abs(sum(changed) / len(changed) - 32) < 2
