"""Rendered examples as columns: boundaries between inserted texts are the same as boundaries in characters."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sftcore import RowError
from sftcore.labelling import Policy, RenderedColumns, RenderedConversation

from .fast_path.test_planner import CHATML, SPLITS, labeller, talk

TRIMS = CHATML.replace("{{ m.content }}", "{{ m.content | trim }}")


def lists(columns: RenderedColumns) -> list[object]:
    return [
        columns.texts,
        *(column.tolist() for column in [columns.owners, *columns.spans, columns.turns, columns.edges]),
    ]


@pytest.mark.parametrize("source", [CHATML, TRIMS, SPLITS], ids=["plain", "trims", "splits"])
def test_boundaries_in_columns(source: str) -> None:
    made, chance = labeller(source), random.Random(source)
    rows: list[RenderedConversation | RowError] = [RowError("no")]
    plain: list[RenderedConversation | RowError] = [*rows]
    for _ in range(300):
        policy = chance.choice([Policy(), Policy(train_on="all", weight=0.5), Policy(train_on=["user"])])
        conversation = talk(chance, choosy=chance.random() < 0.2)
        for render, to in ((made.render_with_plan, rows), (made.render, plain)):
            try:
                to.append(render(conversation, policy))
            except RowError as error:
                to.append(error)
    columns = RenderedColumns.from_rows(rows)
    assert lists(columns) == lists(RenderedColumns.from_rows(plain))

    examples = [
        (at, example) for at, row in enumerate(rows) if not isinstance(row, RowError) for example in row.examples
    ]
    assert columns.texts == [example.text for _, example in examples]
    assert columns.owners.tolist() == [at for at, _ in examples]
    for number, (_, example) in enumerate(examples):
        assert columns.spans.text_spans(number) == example.positions.spans
        assert columns.edges[columns.turns == number].tolist() == [[*turn] for turn in example.positions.turns]
    from_plans = sum(bool(example.inserted) for _, example in examples)
    assert min(from_plans, len(examples) - from_plans) > 5


def test_no_rows() -> None:
    columns = RenderedColumns.from_rows([])
    assert lists(columns) == [[]] * 8
    assert (columns.edges.shape, columns.spans.weights.dtype) == ((0, 2), np.float64)
