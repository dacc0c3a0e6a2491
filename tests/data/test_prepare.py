"""From the data section to examples: the evaluation share, and sums that add up."""

from __future__ import annotations

import json
import random

import pytest
from transformers import AutoTokenizer

from sftcore import DataError
from sftcore.config import load
from sftcore.data import check_rows, prepare
from sftcore.data.bins import padding
from sftcore.document import Document
from sftcore.plugins import Registry
from sftcore.supervision import Labeller, Policy

REGISTRY = Registry.discover()


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return AutoTokenizer.from_pretrained(smollm2)


def write(path, questions):
    path.write_text("\n".join(json.dumps({"input": question, "output": "yes " * 9}) for question in questions))
    return str(path)


def loaded(path, seed=42, **data):
    config = {"model": {"name_or_path": "x"}, "method": "full", "data": {"train": path, **data}, "seed": seed}
    return load(Document(config), REGISTRY, {})


def questions(rows):
    return [row.conversation.messages[0].content for row in rows]


def split(folder, asked, fraction=0.2, seed=42):
    rows = check_rows(loaded(write(folder / "t.jsonl", asked), seed, eval={"fraction": fraction}), REGISTRY)
    return questions(rows.train), questions(rows.eval)


DISTINCT = [f"Is {number} a number?" for number in range(100)]


@pytest.mark.parametrize(("fraction", "size"), [(0.2, 20), (0.001, 1), (0.5, 50), (0.999, 99)])
def test_the_share_is_as_large_as_asked(tmp_path, fraction, size):
    train, held_back = split(tmp_path, DISTINCT, fraction)
    assert len(held_back) == size
    assert sorted(train + held_back) == sorted(DISTINCT)


def test_the_share_does_not_depend_on_the_order_of_rows_but_on_the_seed(tmp_path):
    train, held_back = split(tmp_path, DISTINCT)
    shuffled = random.Random(1).sample(DISTINCT, 100)
    assert split(tmp_path, DISTINCT) == (train, held_back)
    assert set(split(tmp_path, shuffled)[1]) == set(held_back)
    assert set(split(tmp_path, DISTINCT, seed=43)[1]) != set(held_back)


def test_equal_rows_stay_on_one_side(tmp_path):
    train, held_back = split(tmp_path, [f"Is {number % 10}?" for number in range(100)])
    assert train
    assert held_back
    assert not set(train) & set(held_back)
    assert len(train) % 10 == len(held_back) % 10 == 0


@pytest.mark.parametrize(
    ("asked", "reason"), [(["a"], "cannot hold back a share of 1 row"), (["a"] * 5, "all rows are equal")]
)
def test_too_few_rows_to_hold_back(tmp_path, asked, reason):
    with pytest.raises(DataError, match=f"data.eval: {reason}"):
        split(tmp_path, asked)


def test_two_rows_are_one_each(tmp_path):
    assert [len(part) for part in split(tmp_path, ["a", "b"], 0.9)] == [1, 1]


def test_evaluation_sources(tmp_path):
    train, held_back = write(tmp_path / "t.jsonl", ["a", "b"]), write(tmp_path / "e.jsonl", ["c"])
    rows = check_rows(loaded(train, eval=held_back), REGISTRY)
    assert (questions(rows.train), questions(rows.eval)) == (["a", "b"], ["c"])
    assert [source.path for source in rows.sources] == [train, held_back]


def test_the_fingerprint_is_of_the_content_in_order(tmp_path):
    def fingerprint(*asked, name="t.jsonl"):
        return check_rows(loaded(write(tmp_path / name, asked)), REGISTRY).fingerprint()

    assert fingerprint("a", "b") == fingerprint("a", "b", name="other.jsonl")
    assert len({fingerprint("a", "b"), fingerprint("b", "a"), fingerprint("a"), fingerprint("a", "c")}) == 4


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize(("truncation", "dropped", "cut"), [("truncate_right", 3, 1), ("drop_turns", 4, 0)])
def test_the_sums_add_up(tmp_path, tokenizer, packing, truncation, dropped, cut):
    asked = [*DISTINCT[:20], *("long " * length for length in (40, 41, 42, 25))]
    made = loaded(
        write(tmp_path / "t.jsonl", asked),
        eval={"fraction": 0.4},
        max_length=64,
        packing=packing,
        truncation=truncation,
    )
    rows = check_rows(made, REGISTRY)
    prepared = prepare(rows, made.config.data, Labeller(tokenizer, ["<|im_end|>"]), (4, 2))
    for summary, examples, given in (
        (prepared.train_summary, prepared.train, rows.train),
        (prepared.eval_summary, prepared.eval, rows.eval),
    ):
        assert summary.rows == len(given) == summary.kept + summary.dropped
        assert summary.examples == summary.kept == sum(len(example.lengths) for example in examples)
        assert summary.tokens == sum(len(example.input_ids) for example in examples)
        assert summary.trained == sum(label != -100 for example in examples for label in example.labels)
        assert all(len(example.input_ids) <= 64 for example in examples)
        assert packing or len(examples) == summary.kept
    both = (prepared.train_summary, prepared.eval_summary)
    assert sum(summary.dropped for summary in both) == dropped
    assert sum(summary.remarks.get("cut", 0) for summary in both) == cut
    notes = " ".join(prepared.train_summary.notes)
    assert (f"{prepared.train_summary.examples} examples packed into" in notes) == packing


def test_what_packing_joined_is_told(tmp_path, tokenizer):
    made = loaded(write(tmp_path / "t.jsonl", DISTINCT[:20]), max_length=200, packing=True)
    prepared = prepare(check_rows(made, REGISTRY), made.config.data, Labeller(tokenizer, ["<|im_end|>"]), (4, 2))
    [note] = prepared.train_summary.notes
    assert len(prepared.train) < 10
    full = prepared.train_summary.tokens / (200 * len(prepared.train))
    told = prepared.train_summary.packing
    assert told == {
        "rows_before": 20,
        "rows": len(prepared.train),
        "fill": pytest.approx(full),
        "padding_avoided": pytest.approx(padding([length for row in prepared.train for length in row.lengths], 4)),
        "padding_batch_size": 4,
    }
    assert note == (
        f"20 examples packed into {len(prepared.train)} rows of 200 tokens, {full:.2%} full; "
        f"batches of 4 unpacked would be {told['padding_avoided']:.1%} padding"
    )
    assert prepared.eval_summary.packing == {}


def test_both_sets_are_packed_each_for_its_own_batches(tmp_path, tokenizer):
    made = loaded(write(tmp_path / "t.jsonl", DISTINCT), eval={"fraction": 0.5}, max_length=200, packing=True)
    prepared = prepare(check_rows(made, REGISTRY), made.config.data, Labeller(tokenizer, ["<|im_end|>"]), (4, 2))
    both = prepared.train_summary.packing, prepared.eval_summary.packing
    assert [told["padding_batch_size"] for told in both] == [4, 2]
    assert [told["rows"] for told in both] == [len(prepared.train), len(prepared.eval)]
    assert both[0]["padding_avoided"] > both[1]["padding_avoided"] > 0


def test_nothing_is_packed_unasked(tmp_path, tokenizer):
    made = loaded(write(tmp_path / "t.jsonl", DISTINCT[:20]), max_length=200)
    prepared = prepare(check_rows(made, REGISTRY), made.config.data, Labeller(tokenizer, ["<|im_end|>"]), (4, 2))
    assert (len(prepared.train), prepared.train_summary.packing, prepared.train_summary.notes) == (20, {}, [])


def test_each_source_has_its_own_policy(tmp_path):
    one, other = write(tmp_path / "1.jsonl", ["a"]), write(tmp_path / "2.jsonl", ["b"])
    sources = [one, {"path": other, "weight": 0.5, "train_on": "last_turn", "truncation": "split"}]
    rows = check_rows(loaded(sources, eval=one, max_length=99, reasoning="mask", truncation="drop_row"), REGISTRY)
    common = Policy(max_length=99, reasoning="mask", truncation="drop_row")
    own = Policy(max_length=99, reasoning="mask", truncation="split", train_on="last_turn", weight=0.5)
    assert [row.policy for row in rows.train] == [common, own]
    assert [row.policy for row in rows.eval] == [common]


def test_no_rows_for_training(tmp_path):
    path = write(tmp_path / "t.jsonl", [])
    with pytest.raises(DataError, match="has no rows"):
        check_rows(loaded(path), REGISTRY)
    with pytest.raises(DataError, match="the training sources have no rows"):
        check_rows(loaded([{"path": path, "format": "qa"}]), REGISTRY)
