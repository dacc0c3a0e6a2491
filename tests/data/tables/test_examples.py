"""The examples of a set: in which order, how often, and what is known of them before they are looked at."""

from __future__ import annotations

import numpy as np
import pytest

from sftcore.core.types import IGNORE_INDEX
from sftcore.data.row_types import Origin
from sftcore.data.tables.examples import Examples, SelectedRows
from sftcore.labelling import Policy

from ..making import make_labeller, part_of, row, table_of

LABELLER = make_labeller()
SPLIT = Policy(max_length=6, truncation="split")


def table(*lines, **options):
    return table_of([row("q", "a" * line, line=line, **options) for line in lines], LABELLER)


def places(examples):
    return [str(example.origins[0]) for example in examples]


@pytest.mark.parametrize(
    ("times", "order"),
    [
        (([1, 1], [1]), "a:1 a:2 b:3"),
        (([2, 2], [1]), "a:1 a:2 b:3 a:1 a:2"),
        (([1, 3], [2]), "a:1 a:2 b:3 a:2 b:3 a:2"),
        (([0, 1], [1]), "a:2 b:3"),
        (([0, 0], [2]), "b:3 b:3"),
        (([0, 0], [0]), ""),
    ],
)
def test_all_examples_come_once_before_any_is_repeated(times, order):
    parts = [part_of(table(1, 2), times[0], "a"), part_of(table(3), times[1], "b")]
    assert " ".join(places(Examples(parts))) == order


def test_the_examples_of_a_row_stay_together():
    rows = [row("q", "a", "r", "b", line=1), row("q", line=2), row("q", "a", line=3)]
    examples = Examples([part_of(table_of(rows, LABELLER, policy=SPLIT), [2, 1, 1])])
    assert places(examples) == ["f:1", "f:1", "f:3", "f:1", "f:1"]
    texts = [LABELLER.tokenizer.decode(example.input_ids) for example in examples]
    assert texts[:2] == texts[3:] == ["[user]q</s>[assistant]a</s>", "[user]r</s>[assistant]b</s>"]


def test_lengths_of_examples_are_those_of_their_tokens():
    examples = Examples([part_of(table(1, 2, 3), [1, 2, 0], "a"), part_of(table(9, 4, weight=0.5), [2, 1], "b")])
    found = list(examples)
    assert len(examples) == len(found) == 6
    assert examples.lengths.tolist() == [len(one.input_ids) for one in found] == [6, 7, 14, 9, 7, 14]
    assert examples.trained_tokens.tolist() == [(one.labels != IGNORE_INDEX).sum() for one in found]
    assert [one.lengths for one in found] == [(length,) for length in examples.lengths]
    assert all(len(one.labels) == len(one.input_ids) for one in found)


@pytest.mark.parametrize(
    ("truncation", "answer", "before"),
    [("drop_turns", "a" * 30, [41]), ("truncate_right", "a" * 30, [41]), ("split", "a" * 15, [20, 6])],
)
def test_full_lengths_are_those_before_truncation(truncation, answer, before):
    policy = Policy(max_length=20, truncation=truncation)
    rows = [row("q", "a"), row("q", answer, "r", "b")]
    examples = Examples([part_of(table_of(rows, LABELLER, policy=policy))])
    assert examples.full_lengths.tolist() == [6, *before]
    assert max(examples.lengths) <= 20


def test_weights_are_those_of_the_rows():
    plain, weighted = part_of(table(1)), part_of(table(1, weight=0.5))
    assert not Examples([plain]).weighted
    assert Examples([plain, weighted]).weighted
    first, second = Examples([plain, weighted])
    assert first.weights is None
    assert second.weights.tolist() == [0.0] * 4 + [0.5] * 2


def test_a_row_is_known_by_the_file_it_stands_in():
    made = table(1, 2)
    made.file[:] = [1, 0]
    part = SelectedRows(made, ["a", "b"], np.arange(2), np.ones(2, int))
    assert [part.origin(0), part.origin(1)] == [Origin("b", 1), Origin("a", 2)]
    assert [type(value) for value in part.origin(0)] == [str, int]


@pytest.mark.parametrize("parts", [[], [part_of(table())], [part_of(table(1), [0])]])
def test_a_set_may_be_empty(parts):
    examples = Examples(parts)
    assert (len(examples), list(examples), examples.weighted) == (0, [], False)
    assert examples.lengths.tolist() == examples.trained_tokens.tolist() == examples.full_lengths.tolist() == []
