"""How full packed rows are, and how long packing takes, against packing each map batch of 1,000 rows alone.

``python bench/packing.py [NUMBER ...]`` prints a table, for sets of 1,000, 100,000 and 1,000,000 documents by default.
Both see the same lengths in the same run. *global* is ours, best fit over the whole set, longest first; *each 1,000*
packs every thousand documents by themselves, by first fit as they come, as a ``datasets.map`` in batches does.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from sftcore.data.batching.bin_packing import Bins, padding_share

SIZES = (1_000, 100_000, 1_000_000)
MAP_BATCH = 1_000
BATCH = 8

DISTRIBUTIONS: dict[str, tuple[int, Callable[[np.random.Generator, int], Any]]] = {
    "short chats, median 150": (2048, lambda chance, number: chance.lognormal(5, 0.8, number)),
    "chats, median 400": (2048, lambda chance, number: chance.lognormal(6, 1, number)),
    "long chats, median 1,100": (8192, lambda chance, number: chance.lognormal(7, 1, number)),
    "two kinds, 100 and 3,000": (
        4096,
        lambda chance, number: np.where(
            chance.random(number) < 0.7, chance.normal(100, 30, number), chance.normal(3000, 300, number)
        ),
    ),
    "uniform up to the limit": (4096, lambda chance, number: chance.uniform(1, 4097, number)),
    "uniform, long rows": (131_072, lambda chance, number: chance.uniform(1, 131_073, number)),
}


def first_fit(lengths: list[int], max_length: int) -> int:
    """Return the number of rows, where each document goes into the first row that has room."""
    size = 1
    while size < len(lengths):
        size *= 2
    room = [max_length] * (2 * size)  # a tree: each node is the largest room below it
    used = 0
    for length in lengths:
        node = 1
        while node < size:
            node *= 2
            if room[node] < length:
                node += 1
        used = max(used, node - size + 1)
        room[node] -= length
        while node > 1:
            node //= 2
            room[node] = max(room[2 * node], room[2 * node + 1])
    return used


def each_batch(lengths: list[int], max_length: int) -> int:
    """Return the number of rows, where each map batch is packed alone."""
    starts = range(0, len(lengths), MAP_BATCH)
    return sum(first_fit(lengths[start : start + MAP_BATCH], max_length) for start in starts)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    return work(), time.perf_counter() - begin


def main(sizes: tuple[int, ...]) -> None:
    """Print the table."""
    print(
        "| lengths | row | documents | padding of batches of 8 | fill, each 1,000 | fill, global | rows saved "
        "| s, each 1,000 | s, global | ratio | s, sampling an epoch |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name, (max_length, draw) in DISTRIBUTIONS.items():
        for number in sizes:
            lengths = np.clip(draw(np.random.default_rng(0), number), 8, max_length).astype(np.int64)
            as_list = lengths.tolist()
            rows, slow = timed(lambda: each_batch(as_list, max_length))  # noqa: B023
            bins, fast = timed(lambda: Bins(lengths, max_length))  # noqa: B023
            _, drawn = timed(lambda: bins.shuffled(0, 1))  # noqa: B023
            alone = lengths.sum() / (rows * max_length)
            print(
                f"| {name} | {max_length:,} | {number:,} | {padding_share(lengths, BATCH):.1%} | {alone:.2%} "
                f"| {bins.fill:.2%} | {1 - len(bins) / rows:.1%} | {slow:.2f} | {fast:.2f} | {slow / fast:.1f} "
                f"| {drawn:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or SIZES)
