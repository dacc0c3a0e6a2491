"""``sft stats``: numbers that can be counted by hand, and bars that a terminal of any width can show."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from sftcore.cli.main import main
from sftcore.data import Examples
from sftcore.inspection import stats
from sftcore.labelling import Policy
from tests.data.making import make_labeller, part_of, row, table_of


@pytest.fixture(scope="module")
def labeller():
    return make_labeller()


def examples(labeller, lengths, policy=Policy()):  # noqa: B008
    """Examples whose answers have these numbers of letters, and four more tokens each: three markers and one letter."""
    rows = [row("q", "a" * length, line=at) for at, length in enumerate(lengths)]
    return Examples([part_of(table_of(rows, labeller, policy=policy))])


def test_lengths_and_trained_shares(labeller):
    found = stats.compute_stats(examples(labeller, [6, 16, 96]), 2048, 8)
    assert found.lengths.tolist() == [11, 21, 101]
    assert found.shares == pytest.approx([7 / 11, 17 / 21, 97 / 101])
    assert found.trained == 7 + 17 + 97


def test_a_truncated_example_counts_with_its_length_before_truncation(labeller):
    policy = Policy(max_length=50, truncation="truncate_right")
    found = stats.compute_stats(examples(labeller, [6, 96], policy), 50, 8)
    assert found.lengths.tolist() == [11, 101]
    [cost] = [cost for cost in found.costs if cost.max_length == 50]
    assert (cost.too_long, cost.beyond) == (1, 51)


def test_cost_of_a_max_length(labeller):
    found = stats.compute_stats(examples(labeller, [295] * 4 + [895]), 600, 2)
    costs = {cost.max_length: cost for cost in found.costs}
    assert sorted(costs) == [256, 512, 600, 1024]
    assert costs[600] == stats.LengthCost(600, 1, 300, 3, 1.0, pytest.approx(1 - 1800 / 2040))
    assert (costs[1024].too_long, costs[1024].beyond, costs[1024].rows) == (0, 0, 3)
    assert (costs[256].too_long, costs[256].beyond, costs[256].rows) == (5, 4 * 44 + 644, 5)


@pytest.mark.parametrize("lengths", [[1], [5, 5, 5], [1, 2, 3, 4, 70_000], [*range(1, 3000)], [131_072]])
def test_every_example_is_in_one_bar_of_the_length_histogram(lengths):
    bars = stats.length_histogram(np.array(lengths))
    assert sum(bar.examples for bar in bars) == len(lengths)
    assert len(bars) <= 2 * stats.MAX_BARS
    edges = [[int(edge.replace(",", "")) for edge in bar.name.split(" to ")] for bar in bars]
    assert edges[0][0] <= min(lengths)
    assert max(lengths) <= edges[-1][1]
    for bar, (first, last) in zip(bars, edges, strict=True):
        assert bar.examples == sum(first <= length <= last for length in lengths)
    assert all(before[1] + 1 == after[0] for before, after in pairwise(edges))


def test_trained_shares_are_in_tenths():
    bars = stats.share_histogram(np.array([0.0, 0.05, 0.1, 0.95, 1.0]))
    assert [bar.examples for bar in bars] == [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert (bars[0].name, bars[-1].name) == ("0% to 10%", "90% to 100%")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_histogram_bars_fit_the_terminal_and_grow_with_their_numbers(labeller, width):
    text = stats.render_stats(
        stats.compute_stats(examples(labeller, [5] * 90 + [50] * 9 + [500]), 2048, 8), 2048, 8, width
    )
    shown = text.partition("Trained part")[0]
    drawn = [line for line in shown.splitlines() if set(line) & set("▏▎▍▌▋▊▉█")]
    assert len(drawn) == 3
    if width >= 80:
        assert max(map(len, text.splitlines())) <= max(width, 90)
    sizes = {line.split("to")[1].split()[1]: line.count("█") for line in drawn}
    assert sizes["90"] > sizes["9"] >= sizes["1"]


def test_stats_of_no_examples():
    found = stats.compute_stats(Examples([]), 2048, 8)
    assert stats.render_stats(found, 2048, 8, 80) == "0 examples, 0 tokens, 0 of them trained (0%)"
    assert stats.stats_to_json(found)["lengths"] == []


def test_sft_stats(sft, capsys):
    assert main(["stats", "--config", str(sft.write()), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["examples"], found["costs"][0]["too_long"]) == (40, 0)
    assert sum(bar["examples"] for bar in found["lengths"]) == 40
    assert main(["stats", "--config", str(sft.write()), "data.max_length=63"]) == 0
    shown = capsys.readouterr().out
    assert f"\n  *{63:>11}  {'30 (75.0%)':>18}  " in shown
    assert f"40 examples, {found['tokens']:,} tokens" in shown
