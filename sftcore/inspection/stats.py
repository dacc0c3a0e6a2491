"""``sft stats``: the lengths of examples, their trained share, and the cost of each ``max_length``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sftcore.data import Examples
from sftcore.data.batching.bin_packing import Bins, padding_share
from sftcore.runtime.console import count

CANDIDATE_LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
"""Values of ``max_length`` whose cost is shown, in tokens; those far from the data's own lengths are skipped."""

MAX_BARS = 12
"""Bars of a histogram of lengths, with up to one more at each end."""

Integers = NDArray[np.int64]


class LengthCost(NamedTuple):
    """The cost of a ``max_length``.

    Attributes:
        max_length: in tokens.
        too_long: number of longer examples.
        beyond: number of their tokens after ``max_length``.
        rows: number of packed rows (``data.packing``).
        fill: share of these rows that holds tokens, from 0 to 1.
        padding: share of padding in batches without packing, from 0 to 1.
    """

    max_length: int
    too_long: int
    beyond: int
    rows: int
    fill: float
    padding: float


class HistogramBar(NamedTuple):
    """The number of examples in a range."""

    name: str
    examples: int


class LengthStats(NamedTuple):
    """The lengths of the examples of a set.

    Attributes:
        lengths: tokens of each example, before truncation; dropped ones included.
        shares: trained share of each example, from 0 to 1, after truncation; without dropped ones.
        trained: number of trained tokens of all examples.
        costs: one each for the ``max_length`` of the configuration and for candidates.
    """

    lengths: Integers
    shares: NDArray[np.float64]
    trained: int
    costs: list[LengthCost]


def compute_stats(examples: Examples, max_length: int, batch_size: int) -> LengthStats:
    """Statistics of *examples*, for the configured *max_length* in tokens and *batch_size* examples per device."""
    lengths, trained = np.concatenate([examples.full_lengths, examples.dropped_lengths]), examples.trained_tokens
    longest = int(lengths.max(initial=1))
    low, high = np.median(lengths) / 2 if len(lengths) else 0, 2 * longest
    candidates = {length for length in CANDIDATE_LENGTHS if low < length < high} | {max_length}
    costs = [_cost(lengths, length, batch_size) for length in sorted(candidates)]
    return LengthStats(lengths, trained / np.maximum(examples.lengths, 1), int(trained.sum()), costs)


def _cost(lengths: Integers, max_length: int, batch_size: int) -> LengthCost:
    fitted = np.minimum(lengths, max_length)
    bins, too_long, beyond = Bins(fitted, max_length), int((lengths > max_length).sum()), int((lengths - fitted).sum())
    return LengthCost(max_length, too_long, beyond, len(bins), bins.fill, padding_share(fitted, batch_size))


def length_histogram(lengths: Integers) -> list[HistogramBar]:
    """Examples by length, in ranges whose bounds grow by a constant factor."""
    if not len(lengths):
        return []
    low, high = np.log2(lengths.min()), np.log2(lengths.max() + 1)
    step = next(step for step in (0.25, 0.5, 1.0, 2.0) if (high - low) / step <= MAX_BARS or step == 2.0)
    powers = np.arange(np.floor(low / step), np.ceil(high / step) + 1) * step
    edges = np.unique(np.round(2**powers).astype(np.int64))
    numbers, _ = np.histogram(lengths, [*edges[:-1], edges[-1] - 0.5])
    names = (f"{first:,} to {last - 1:,}" for first, last in pairwise(edges))
    return list(map(HistogramBar, names, numbers.tolist()))


def share_histogram(shares: NDArray[np.float64]) -> list[HistogramBar]:
    """Examples by trained share, in tenths."""
    numbers, edges = np.histogram(shares, 10, (0.0, 1.0))
    names = (f"{first:.0%} to {last:.0%}" for first, last in pairwise(edges))
    return list(map(HistogramBar, names, numbers.tolist()))


def stats_to_json(stats: LengthStats) -> dict[str, Any]:
    """*stats* as ``--json`` prints them."""
    return {
        "examples": len(stats.lengths),
        "tokens": int(stats.lengths.sum()),
        "trained": stats.trained,
        "lengths": [bar._asdict() for bar in length_histogram(stats.lengths)],
        "trained_shares": [bar._asdict() for bar in share_histogram(stats.shares)],
        "costs": [cost._asdict() for cost in stats.costs],
    }


def render_stats(stats: LengthStats, max_length: int, batch_size: int, width: int) -> str:
    """*stats* as text of at most *width* columns."""
    total = int(stats.lengths.sum())
    trained = f"{stats.trained:,} of them trained ({stats.trained / max(total, 1):.0%})"
    totals = f"{count(len(stats.lengths), 'example')}, {count(total, 'token')}, {trained}"
    if not len(stats.lengths):
        return totals
    median, p90, p99 = (int(value) for value in np.percentile(stats.lengths, (50, 90, 99)))
    lines = [
        totals,
        "",
        f"Tokens of an example: half have at most {median:,}, 90% {p90:,}, 99% {p99:,}, all {max(stats.lengths):,}",
        *_histogram_lines(length_histogram(stats.lengths), width),
        "",
        "Trained part of an example",
        *_histogram_lines(share_histogram(stats.shares), width),
        "",
        "What max_length costs",
        *_cost_table(stats, max_length, batch_size),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _histogram_lines(bars: Sequence[HistogramBar], width: int) -> Iterator[str]:
    names, numbers = max(len(bar.name) for bar in bars), max(len(f"{bar.examples:,}") for bar in bars)
    total, most = sum(bar.examples for bar in bars), max(bar.examples for bar in bars)
    room = max(10, min(60, width - names - numbers - 14))
    for bar in bars:
        eighths = round(8 * room * bar.examples / most)
        blocks = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip() or "▏" * bool(bar.examples)
        yield f"  {bar.name:>{names}}  {bar.examples:>{numbers},}  {bar.examples / total:>6.1%}  {blocks}"


def _cost_table(stats: LengthStats, max_length: int, batch_size: int) -> Iterator[str]:
    yield f"{'max_length':>14}  {'too long':>18}  {'tokens beyond':>16}  {'packed rows':>12}    full  padding"
    examples, tokens = len(stats.lengths), int(stats.lengths.sum())
    for cost in stats.costs:
        mark = "*" if cost.max_length == max_length else " "
        long = f"{cost.too_long:,} ({cost.too_long / examples:.1%})"
        beyond = f"{cost.beyond:,} ({cost.beyond / tokens:.1%})"
        yield (
            f"  {mark}{cost.max_length:>11,}  {long:>18}  {beyond:>16}  {cost.rows:>12,}  {cost.fill:>6.1%}  "
            f"{cost.padding:>7.1%}"
        )
    yield f"  * as configured; padding is that of batches of {batch_size} examples that are not packed"
