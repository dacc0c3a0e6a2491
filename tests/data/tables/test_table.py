"""A table reads back what was labelled, however its rows lie in batches."""

from __future__ import annotations

import pyarrow as pa
import pytest

from sftcore.core.types import IGNORE_INDEX
from sftcore.data.tables.label_batch import label_rows
from sftcore.data.tables.table import LABEL_WARNINGS, SCHEMA, Table
from sftcore.labelling import LabelWarning, Policy

from ..making import make_labeller, row, said, table_of

LABELLER = make_labeller()
ROWS = [
    row("q", "a", line=1),
    row("q", line=2),  # nothing is trained
    row("q", "a", "r", "b", line=5),
    row("q", "aé", line=6, weight=0.5),
    row("q", "a", line=9, reasoning_content="hm"),  # the template does not print it
    row("q" * 30, "a", line=10),
    row("q" * 30, "a", "r", "b", line=11),
]
POLICIES = {
    5: Policy(max_length=6, truncation="split"),
    10: Policy(max_length=20, truncation="drop_row"),
    11: Policy(max_length=20),
}
"""Of some lines."""

TEXTS = [
    "[user]q</s>[assistant]a</s>",
    "[user]q</s>[assistant]a</s>",
    "[user]r</s>[assistant]b</s>",
    "[user]q</s>[assistant]aé</s>",
    "[user]q</s>[assistant]a</s>",
    "[user]r</s>[assistant]b</s>",
]


def labelled(per_block):
    """Return a table of all rows, so many in a batch."""
    single = [label_rows([row], LABELLER, POLICIES.get(row.origin.line, Policy()))[0] for row in ROWS]
    whole = [single[first : first + per_block] for first in range(0, len(single), per_block)]
    return Table([joined(batches) for batches in whole])


def joined(batches):
    """Return one batch; where some rows have weights, all have them, as in rows that are labelled at once."""
    batch = pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
    if 0 < batch["weights"].null_count < len(batch):
        weights = [
            [float(trained) for trained in row["trained"]] if row["weights"] is None else row["weights"]
            for row in batch.to_pylist()
        ]
        field = SCHEMA.field("weights")
        batch = batch.set_column(SCHEMA.get_field_index("weights"), field, pa.array(weights, field.type))
    return batch


def in_a_file(table, path):
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for batch in table.batches:
            writer.write_batch(batch)
    with pa.memory_map(str(path)) as file:
        reader = pa.ipc.open_file(file)
        return Table([reader.get_batch(number) for number in range(reader.num_record_batches)])


@pytest.fixture(params=["1 a batch", "2 a batch", "one batch", "parts of a batch", "a file"])
def table(request, tmp_path):
    if request.param == "parts of a batch":
        [whole] = labelled(1000).batches
        return Table([whole.slice(0, 3), whole.slice(3, 0), whole.slice(3, 2), whole.slice(5)])
    if request.param == "a file":
        return in_a_file(labelled(3), tmp_path / "t.arrow")
    return labelled({"1": 1, "2": 2}.get(request.param[0], 1000))


def test_rows(table):
    assert len(table) == 7
    assert table.line.tolist() == [1, 2, 5, 6, 9, 10, 11]
    assert said(table.keys) == ["1", "2", "5", "6", "9", "10", "11"]
    assert table.longest.tolist() == [6, 0, 12, 8, 6, 35, 41]
    assert table.too_long.tolist() == [False] * 5 + [True, False]
    assert table.examples.tolist() == [1, 0, 2, 1, 1, 0, 1]


def test_rows_of_one_content_have_one_digest(table):
    digests = table.digests.tolist()
    assert digests[0] == digests[4]
    assert len(set(digests)) == 6 - (digests[1] == digests[5])  # the two of which nothing is trained


def test_examples(table):
    assert table.row_of.tolist() == [0, 2, 2, 3, 4, 6]
    assert table.lengths.tolist() == [6, 6, 6, 8, 6, 6]
    assert table.trained_tokens.tolist() == [2, 2, 2, 4, 2, 2]


def test_tokens(table):
    found = [table.example(number) for number in range(6)]
    assert [LABELLER.tokenizer.decode(tokens.input_ids) for tokens in found] == TEXTS
    for tokens, trained in zip(found, table.trained_tokens, strict=True):
        labels = tokens.labels.tolist()
        assert labels == [IGNORE_INDEX] * (len(labels) - trained) + tokens.input_ids.tolist()[-trained:]


def test_weights(table):
    found = [table.example(number) for number in range(6)]
    assert table.weighted
    assert found[3].weights.tolist() == [0.0] * 4 + [0.5] * 4
    for tokens in [*found[:3], *found[4:]]:
        assert tokens.weights is None or tokens.weights.tolist() == [0.0] * 4 + [1.0] * 2


def test_only_a_batch_with_weights_has_any():
    table = labelled(1)
    assert [number for number in range(6) if table.example(number).weights is not None] == [3]
    assert not table_of(ROWS[:3], LABELLER).weighted


def warnings(table):
    return [tuple(line.values()) for line in table.warnings.to_pylist()]


def test_warnings(table):
    assert [(row, LABEL_WARNINGS[kind], times, detail) for row, kind, times, detail in warnings(table)] == [
        (2, LabelWarning.SPLIT_TO_FIT, 1, None),
        (4, LabelWarning.NO_REASONING, 1, None),
        (5, LabelWarning.TOO_LONG, 1, None),
        (6, LabelWarning.TURNS_DROPPED, 1, None),
    ]


def test_a_warning_may_have_a_detail():
    made = label_rows(ROWS[:1], LABELLER, Policy())[0].to_pylist()[0]
    made["warnings"] = [{"warning": 1, "times": 3, "detail": "x"}, {"warning": 0, "times": 1, "detail": None}]
    table = Table([pa.RecordBatch.from_pylist([made], SCHEMA)] * 2)
    assert warnings(table) == [(0, 1, 3, "x"), (0, 0, 1, None), (1, 1, 3, "x"), (1, 0, 1, None)]


def test_every_row_has_the_file_it_comes_from():
    batches = [label_rows(ROWS[:2], LABELLER, Policy(), file)[0] for file in (0, 7)]
    assert Table(batches).file.tolist() == [0, 0, 7, 7]


@pytest.mark.parametrize(
    "batches", [[], [label_rows([], LABELLER, Policy())[0]], [label_rows([], LABELLER, Policy())[0]] * 2]
)
def test_a_table_may_be_empty(batches):
    table = Table(batches)
    assert (len(table), len(table.warnings), table.weighted) == (0, 0, False)
    for name in ("keys", "digests", "file", "line", "longest", "too_long", "examples", "row_of"):
        assert getattr(table, name).tolist() == []
    assert table.lengths.tolist() == table.trained_tokens.tolist() == []


def test_empty_batches_lie_between_others():
    empty = label_rows([], LABELLER, Policy())[0]
    table = Table([empty, *table_of(ROWS[:1], LABELLER).batches, empty, *table_of(ROWS[3:4], LABELLER).batches])
    assert table.line.tolist() == [1, 6]
    assert [LABELLER.tokenizer.decode(table.example(number).input_ids) for number in (0, 1)] == [TEXTS[0], TEXTS[3]]
