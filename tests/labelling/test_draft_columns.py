"""Drafts as columns: what is not written out lies where it would if it were."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sftcore import RowError
from sftcore.labelling import DraftColumns, Outline, Policy, Sketch

from .fast_path.test_planner import CHATML, SPLITS, labeller, talk

TRIMS = CHATML.replace("{{ m.content }}", "{{ m.content | trim }}")


def lists(drafts: DraftColumns) -> list[object]:
    return [drafts.texts, *(column.tolist() for column in [drafts.owners, *drafts.spans, drafts.turns, drafts.edges])]


@pytest.mark.parametrize("source", [CHATML, TRIMS, SPLITS], ids=["plain", "trims", "splits"])
def test_sketches_lie_where_their_outlines_do(source: str) -> None:
    made, chance = labeller(source), random.Random(source)
    rows: list[Sketch | Outline | RowError] = [RowError("no")]
    for _ in range(300):
        policy = chance.choice([Policy(), Policy(train_on="all", weight=0.5), Policy(train_on=["user"])])
        try:
            rows.append(made.sketch(talk(chance, choosy=chance.random() < 0.2), policy))
        except RowError as error:
            rows.append(error)
    outlines = [row.outline if isinstance(row, Sketch) else row for row in rows]
    found = DraftColumns.of(rows)
    assert lists(found) == lists(DraftColumns.of(outlines))

    drafts = [(at, draft) for at, row in enumerate(outlines) if isinstance(row, Outline) for draft in row.drafts]
    assert found.texts == [draft.text for _, draft in drafts]
    assert found.owners.tolist() == [at for at, _ in drafts]
    for number, (_, draft) in enumerate(drafts):
        assert found.spans.of_text(number) == draft.spans
        assert found.edges[found.turns == number].tolist() == [[*edge] for edge in draft.edges]
    kinds = [type(row) for row in rows]
    assert min(kinds.count(Sketch), kinds.count(Outline)) > 5


def test_no_rows() -> None:
    found = DraftColumns.of([])
    assert lists(found) == [[]] * 8
    assert (found.edges.shape, found.spans.weights.dtype) == ((0, 2), np.float64)
