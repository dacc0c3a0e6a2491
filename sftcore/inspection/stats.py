"""What ``sft stats`` shows: how long examples are, how much of them is trained, and what a length would cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sftcore.data import Examples
from sftcore.data.batching.bin_packing import Bins, padding_share
from sftcore.runtime.console import count

LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
"""The lengths whose cost is shown, as far as the data has use for them."""

BARS = 12
"""How many bars a histogram has, about."""

Integers = NDArray[np.int64]


class Cost(NamedTuple):
    """What a ``max_length`` would cost.

    Attributes:
        max_length: in tokens.
        too_long: examples that are longer.
        beyond: their tokens behind that length.
        rows: of this length, if examples share them (``data.packing``).
        fill: how full these are.
        padding: share of padding in batches that are not packed.
    """

    max_length: int
    too_long: int
    beyond: int
    rows: int
    fill: float
    padding: float


class Bar(NamedTuple):
    """So many examples are in this range."""

    name: str
    examples: int


class Stats(NamedTuple):
    """What there is to know of the lengths of a set.

    Attributes:
        lengths: tokens of each example; of one that was made to fit, or dropped for its length, its tokens before.
        shares: what part of each example is trained; without those that were dropped.
        trained: trained tokens of all examples.
        costs: of ``max_length`` as it is in the configuration, and of others.
    """

    lengths: Integers
    shares: NDArray[np.float64]
    trained: int
    costs: list[Cost]


def stats(examples: Examples, max_length: int, batch_size: int) -> Stats:
    """Return what there is to know of *examples*.

    Args:
        max_length: the one of the configuration.
        batch_size: of the batches that a device trains on, in rows.
    """
    lengths, trained = np.concatenate([examples.full_lengths, examples.dropped_lengths]), examples.trained_tokens
    longest = int(lengths.max(initial=1))
    wanted = {length for length in LENGTHS if length < 2 * longest and length > np.median(lengths) / 2} | {max_length}
    costs = [_cost(lengths, length, batch_size) for length in sorted(wanted)]
    return Stats(lengths, trained / np.maximum(examples.lengths, 1), int(trained.sum()), costs)


def _cost(lengths: Integers, max_length: int, batch_size: int) -> Cost:
    fitted = np.minimum(lengths, max_length)
    bins = Bins(fitted, max_length)
    beyond = int((lengths - fitted).sum())
    return Cost(
        max_length, int((lengths > max_length).sum()), beyond, len(bins), bins.fill, padding_share(fitted, batch_size)
    )


def length_bars(lengths: Integers) -> list[Bar]:
    """Return how many examples have which length, in ranges that double."""
    if not len(lengths):
        return []
    low, high = np.log2(lengths.min()), np.log2(lengths.max() + 1)
    step = next(step for step in (0.25, 0.5, 1.0, 2.0) if (high - low) / step <= BARS or step == 2.0)
    powers = np.arange(np.floor(low / step), np.ceil(high / step) + 1) * step
    edges = np.unique(np.round(2**powers).astype(np.int64))
    numbers, _ = np.histogram(lengths, [*edges[:-1], edges[-1] - 0.5])
    return [
        Bar(f"{first:,} to {last - 1:,}", int(number))
        for first, last, number in zip(edges[:-1], edges[1:], numbers, strict=True)
    ]


def share_bars(shares: NDArray[np.float64]) -> list[Bar]:
    """Return how many examples are trained to which part, in tenths."""
    numbers, edges = np.histogram(shares, 10, (0.0, 1.0))
    return [
        Bar(f"{first:.0%} to {last:.0%}", int(number))
        for first, last, number in zip(edges[:-1], edges[1:], numbers, strict=True)
    ]


def as_json(found: Stats) -> dict[str, Any]:
    """Return *found* as ``--json`` prints it."""
    return {
        "examples": len(found.lengths),
        "tokens": int(found.lengths.sum()),
        "trained": found.trained,
        "lengths": [bar._asdict() for bar in length_bars(found.lengths)],
        "trained_shares": [bar._asdict() for bar in share_bars(found.shares)],
        "costs": [cost._asdict() for cost in found.costs],
    }


def terminal(found: Stats, max_length: int, batch_size: int, width: int) -> str:
    """Return *found* as text of at most *width* columns."""
    total = int(found.lengths.sum())
    trained = f"{found.trained:,} of them trained ({found.trained / max(total, 1):.0%})"
    head = f"{count(len(found.lengths), 'example')}, {count(total, 'token')}, {trained}"
    if not len(found.lengths):
        return head
    middle, most, nearly = (int(value) for value in np.percentile(found.lengths, (50, 90, 99)))
    lines = [
        head,
        "",
        f"Tokens of an example: half have at most {middle:,}, 90% {most:,}, 99% {nearly:,}, all {max(found.lengths):,}",
        *_drawn(length_bars(found.lengths), width),
        "",
        "Trained part of an example",
        *_drawn(share_bars(found.shares), width),
        "",
        "What max_length costs",
        *_table(found, max_length, batch_size),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _drawn(bars: Sequence[Bar], width: int) -> Iterator[str]:
    """Yield the lines of a histogram."""
    names = max(len(bar.name) for bar in bars)
    numbers = max(len(f"{bar.examples:,}") for bar in bars)
    total = sum(bar.examples for bar in bars)
    room = max(10, min(60, width - names - numbers - 14))
    most = max(bar.examples for bar in bars)
    for bar in bars:
        eighths = round(8 * room * bar.examples / most)
        drawn = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
        drawn = drawn or "▏" * bool(bar.examples)
        yield f"  {bar.name:>{names}}  {bar.examples:>{numbers},}  {bar.examples / total:>6.1%}  {drawn}"


def _table(found: Stats, max_length: int, batch_size: int) -> Iterator[str]:
    """Yield what lengths cost, line by line."""
    yield f"{'max_length':>14}  {'too long':>18}  {'tokens beyond':>16}  {'packed rows':>12}    full  padding"
    examples, tokens = len(found.lengths), int(found.lengths.sum())
    for cost in found.costs:
        mark = "*" if cost.max_length == max_length else " "
        long = f"{cost.too_long:,} ({cost.too_long / examples:.1%})"
        beyond = f"{cost.beyond:,} ({cost.beyond / tokens:.1%})"
        yield (
            f"  {mark}{cost.max_length:>11,}  {long:>18}  {beyond:>16}  {cost.rows:>12,}  {cost.fill:>6.1%}  "
            f"{cost.padding:>7.1%}"
        )
    yield f"  * as configured; padding is that of batches of {batch_size} examples that are not packed"
