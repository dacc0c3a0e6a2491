"""From the data section to examples: the evaluation share, and sums that add up."""

from __future__ import annotations

import json
import random
import re
from collections import Counter

import pytest
from transformers import AutoTokenizer

from sftcore.core.errors import DataError
from sftcore.data import pack, prepare, sample_sources
from sftcore.data.batching.bin_packing import padding_share
from sftcore.labelling import Labeller, Policy

from .. import making
from ..making import PLAIN, REGISTRY, loaded, make_labeller

LABELLER = make_labeller()


@pytest.fixture(scope="module")
def labeller(smollm2):
    return Labeller(AutoTokenizer.from_pretrained(smollm2), ["<|im_end|>"])


def write(path, questions):
    return making.write(path, ({"input": question, "output": "yes " * 9} for question in questions))


def prepared(made, labeller=LABELLER):
    found = prepare(made, REGISTRY, labeller)
    return pack(found, made.config.data.max_length, (4, 2)) if made.config.data.packing else found


def questions(examples):
    """The questions of *examples*."""
    texts = [LABELLER.tokenizer.decode(example.input_ids) for example in examples]
    return [re.match(r"\[user\](.*?)</s>", text).group(1) for text in texts]


def split(folder, asked, fraction=0.2, seed=42):
    found = prepared(loaded(write(folder / "t.jsonl", asked), seed, eval={"fraction": fraction}))
    return questions(found.train), questions(found.eval)


DISTINCT = [f"Is {number} a number?" for number in range(100)]


@pytest.mark.parametrize(("fraction", "size"), [(0.2, 20), (0.001, 1), (0.5, 50), (0.999, 99)])
def test_the_share_is_as_large_as_asked(tmp_path, fraction, size):
    train, held_out = split(tmp_path, DISTINCT, fraction)
    assert len(held_out) == size
    assert sorted(train + held_out) == sorted(DISTINCT)


def test_the_share_does_not_depend_on_the_order_of_rows_but_on_the_seed(tmp_path):
    train, held_out = split(tmp_path, DISTINCT)
    shuffled = random.Random(1).sample(DISTINCT, 100)
    assert split(tmp_path, DISTINCT) == (train, held_out)
    assert set(split(tmp_path, shuffled)[1]) == set(held_out)
    assert set(split(tmp_path, DISTINCT, seed=43)[1]) != set(held_out)


def test_equal_rows_stay_on_one_side(tmp_path):
    train, held_out = split(tmp_path, [f"Is {number % 10}?" for number in range(100)])
    assert train
    assert held_out
    assert not set(train) & set(held_out)
    assert len(train) % 10 == len(held_out) % 10 == 0


@pytest.mark.parametrize(
    ("asked", "reason"), [(["a"], "cannot hold out a fraction of 1 row"), (["a"] * 5, "all rows are equal")]
)
def test_too_few_rows_for_a_holdout(tmp_path, asked, reason):
    with pytest.raises(DataError, match=f"data.eval: {reason}"):
        split(tmp_path, asked)


def test_two_rows_are_one_each(tmp_path):
    assert [len(part) for part in split(tmp_path, ["a", "b"], 0.9)] == [1, 1]


def test_evaluation_sources(tmp_path):
    train, held_out = write(tmp_path / "t.jsonl", ["a", "b"]), write(tmp_path / "e.jsonl", ["c"])
    found = prepared(loaded(train, eval=held_out))
    assert (questions(found.train), questions(found.eval)) == (["a", "b"], ["c"])
    assert [item.source.config.path for item in found.sources] == [train, held_out]


def test_the_fingerprint_is_of_the_content_in_order(tmp_path):
    def fingerprint(*asked, name="t.jsonl"):
        return prepared(loaded(write(tmp_path / name, asked))).fingerprint

    assert fingerprint("a", "b") == fingerprint("a", "b", name="other.jsonl")
    assert len({fingerprint("a", "b"), fingerprint("b", "a"), fingerprint("a"), fingerprint("a", "c")}) == 4


def test_how_rows_are_trained_is_in_the_fingerprint(tmp_path):
    path = write(tmp_path / "t.jsonl", ["a", "b"])
    ways = [{}, {"train_on": "all"}, {"weight": 0.5}, {"train_on_stop": False}]
    prints = [prepared(loaded({"path": path, **way})).fingerprint for way in ways]
    prints.append(prepared(loaded(path, eval={"fraction": 0.5})).fingerprint)
    trimming = make_labeller(PLAIN.replace("m.content +", "m.content | trim +"))
    prints.append(prepared(loaded(path), trimming).fingerprint)
    assert len(set(prints)) == 6


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize(("truncation", "dropped", "cut"), [("truncate_right", 3, 1), ("drop_turns", 4, 0)])
def test_the_sums_add_up(tmp_path, labeller, packing, truncation, dropped, cut):
    asked = [*DISTINCT[:20], *("long " * length for length in (40, 41, 42, 25))]
    made = loaded(
        write(tmp_path / "t.jsonl", asked),
        eval={"fraction": 0.4},
        max_length=64,
        packing=packing,
        truncation=truncation,
    )
    found = prepared(made, labeller)
    both = (found.train_summary, found.eval_summary)
    assert sum(summary.rows for summary in both) == found.account.read == len(asked)
    for summary, examples in zip(both, (found.train, found.eval), strict=True):
        assert summary.rows == summary.kept + summary.dropped
        assert summary.examples == summary.kept == sum(len(example.lengths) for example in examples)
        assert summary.tokens == sum(len(example.input_ids) for example in examples)
        assert summary.trained == sum(label != -100 for example in examples for label in example.labels)
        assert all(len(example.input_ids) <= 64 for example in examples)
        assert packing or len(examples) == summary.kept
    assert sum(summary.dropped for summary in both) == dropped
    assert sum(summary.warnings.get("truncated", 0) for summary in both) == cut
    notes = " ".join(found.train_summary.notes)
    assert (f"{found.train_summary.examples} examples packed into" in notes) == packing


def test_packing_is_reported(tmp_path, labeller):
    made = loaded(write(tmp_path / "t.jsonl", DISTINCT[:20]), max_length=200, packing=True)
    found = prepared(made, labeller)
    [note] = found.train_summary.notes
    assert len(found.train) < 10
    full = found.train_summary.tokens / (200 * len(found.train))
    told = found.train_summary.packing
    assert told == {
        "rows_before": 20,
        "rows": len(found.train),
        "fill": pytest.approx(full),
        "padding_avoided": pytest.approx(padding_share([length for row in found.train for length in row.lengths], 4)),
        "padding_batch_size": 4,
    }
    assert note == (
        f"20 examples packed into {len(found.train)} rows of 200 tokens, {full:.2%} full; "
        f"batches of 4 unpacked would be {told['padding_avoided']:.1%} padding"
    )
    assert found.eval_summary.packing == {}


def test_both_sets_are_packed_each_for_its_own_batches(tmp_path, labeller):
    made = loaded(write(tmp_path / "t.jsonl", DISTINCT), eval={"fraction": 0.5}, max_length=200, packing=True)
    found = prepared(made, labeller)
    both = found.train_summary.packing, found.eval_summary.packing
    assert [told["padding_batch_size"] for told in both] == [4, 2]
    assert [told["rows"] for told in both] == [len(found.train), len(found.eval)]
    assert both[0]["padding_avoided"] > both[1]["padding_avoided"] > 0


def test_nothing_is_packed_unasked(tmp_path, labeller):
    made = loaded(write(tmp_path / "t.jsonl", DISTINCT[:20]), max_length=200)
    found = prepared(made, labeller)
    assert (len(found.train), found.train_summary.packing, found.train_summary.notes) == (20, {}, [])


def test_each_source_has_its_own_policy(tmp_path):
    one, other = write(tmp_path / "1.jsonl", ["a"]), write(tmp_path / "2.jsonl", ["b"])
    sources = [one, {"path": other, "weight": 0.5, "train_on": "last_turn", "truncation": "split"}]
    held_out = write(tmp_path / "3.jsonl", ["c"])
    made = loaded(sources, eval=held_out, max_length=99, reasoning="mask", truncation="drop_row")
    common = Policy(max_length=99, reasoning="mask", truncation="drop_row")
    own = Policy(max_length=99, reasoning="mask", truncation="split", train_on="last_turn", weight=0.5)
    for part, policies in (("train", [common, own]), ("eval", [common])):
        found = sample_sources(getattr(made.config.data, part), ("data", part), made, REGISTRY)
        assert [sample.source.policy for sample in found] == policies
    found = prepared(made)
    assert [found.train[0].weights, max(found.train[1].weights)] == [None, 0.5]


def test_no_rows_for_training(tmp_path):
    path = write(tmp_path / "t.jsonl", [])
    with pytest.raises(DataError, match="has no rows"):
        prepared(loaded(path))
    with pytest.raises(DataError, match="the training sources have no rows"):
        prepared(loaded([{"path": path, "format": "qa"}]))


def test_no_rows_for_evaluation(tmp_path):
    paths = write(tmp_path / "t.jsonl", ["a"]), write(tmp_path / "e.jsonl", [])
    with pytest.raises(DataError, match=r"^data.eval: the sources have no rows"):
        prepared(loaded(paths[0], eval={"path": paths[1], "format": "qa"}))


# which rows are trained, how often, and which are evaluated


def times(found):
    return Counter(questions(found.train))


def test_rows_that_are_evaluated_are_not_trained(tmp_path):
    train = [write(tmp_path / "1.jsonl", ["a", "b", "c"]), write(tmp_path / "2.jsonl", ["b", "d"])]
    (tmp_path / "e.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "yes " * 9}]})
    )
    found = prepared(loaded(train, eval=str(tmp_path / "e.jsonl")))
    assert (questions(found.train), questions(found.eval)) == (["a", "c", "d"], ["b"])
    assert found.account.dropped == {"also in data.eval": 2}


def test_all_rows_are_evaluated(tmp_path):
    path = write(tmp_path / "t.jsonl", ["a", "b"])
    with pytest.raises(DataError, match=r"every row of data.train is also in data.eval"):
        prepared(loaded(path, eval=path))


def test_limits_repeats_and_shares(tmp_path):
    paths = [write(tmp_path / f"{name}.jsonl", [f"{name}{number}" for number in range(40)]) for name in "abc"]
    sources = [
        {"path": paths[0], "limit": 20, "repeat": 2},
        {"path": paths[1], "repeat": 0.5},
        {"path": paths[2], "share": 0.25},
    ]
    found = prepared(loaded(sources))
    often = times(found)
    assert {name: often[f"a{name}"] for name in range(20)} == dict.fromkeys(range(20), 2)
    assert [sum(count for text, count in often.items() if text[0] == name) for name in "abc"] == [40, 20, 20]
    assert found.account.dropped == {"not sampled": 40}
    assert (found.account.read, found.account.trained) == (100, 60)
    assert found.notes == [
        f"{paths[0]}: 20 of 20 rows sampled, as 40 of 80 in an epoch (50.0%)",
        f"{paths[1]}: 20 of 40 rows sampled, as 20 of 80 in an epoch (25.0%)",
        f"{paths[2]}: 20 of 40 rows sampled, as 20 of 80 in an epoch (25.0%)",
    ]
    assert times(prepared(loaded(sources))) == often
    assert times(prepared(loaded(sources, seed=43))) != often


def test_holdout_rows_are_never_repeated_and_are_fewer_where_a_source_is_sampled(tmp_path):
    paths = [write(tmp_path / f"{name}.jsonl", [f"{name}{number}" for number in range(400)]) for name in "ab"]
    sources = [{"path": paths[0], "repeat": 3}, {"path": paths[1], "repeat": 0.25}]
    found = prepared(loaded(sources, eval={"fraction": 0.2}))
    held_out = questions(found.eval)
    assert len(set(held_out)) == len(held_out)
    assert not set(held_out) & set(questions(found.train))
    of = {name: sum(text[0] == name for text in held_out) for name in "ab"}
    trained = {name: sum(count for text, count in times(found).items() if text[0] == name) for name in "ab"}
    assert trained["a"] == 3 * (400 - of["a"])
    assert abs(of["b"] - 20) < 10
    assert abs(trained["b"] - 80) < 10
    assert found.account.read == 800
    assert (found.account.trained, found.account.evaluated) == (len(times(found)), len(held_out))


def test_evaluation_sources_may_be_limited_and_sampled(tmp_path):
    train, other = write(tmp_path / "t.jsonl", DISTINCT[:50]), write(tmp_path / "e.jsonl", DISTINCT[40:])
    found = prepared(loaded(train, eval={"path": other, "limit": 40, "repeat": 0.5}))
    assert len(found.eval) == 20
    assert questions(found.train) == DISTINCT[:40]  # nor are those that were not drawn
    assert found.account.dropped == {"also in data.eval": 10, "not sampled": 20}


def test_a_share_needs_rows(tmp_path):
    paths = [write(tmp_path / "1.jsonl", ["a"]), write(tmp_path / "2.jsonl", ["b"])]
    sources = [paths[0], {"path": paths[1], "share": 0.5}]
    with pytest.raises(DataError, match=f"data source {paths[1]}: has no rows to train, and so cannot have a share"):
        prepared(loaded(sources, eval=paths[1]))


def test_repeated_rows_are_labelled_once_and_trained_often(tmp_path, labeller):
    sources = [
        {"path": write(tmp_path / "1.jsonl", ["a", "b"]), "repeat": 3},
        {"path": write(tmp_path / "2.jsonl", ["c"])},
    ]
    made = loaded(sources)
    found = prepared(made, labeller)
    order = [str(example.origins[0]).rpartition("/")[2] for example in found.train]
    assert order == ["1.jsonl:1", "1.jsonl:2", "2.jsonl:1", "1.jsonl:1", "1.jsonl:2", "1.jsonl:1", "1.jsonl:2"]
    summary = found.train_summary
    assert (summary.rows, summary.kept, summary.examples) == (3, 3, 7)
    assert summary.tokens == sum(len(example.input_ids) for example in found.train)
    assert summary.trained == sum(label != -100 for example in found.train for label in example.labels)


def test_how_often_a_row_is_trained_is_in_the_fingerprint(tmp_path):
    path = write(tmp_path / "t.jsonl", ["a", "b"])
    prints = {prepared(loaded({"path": path, "repeat": repeat})).fingerprint for repeat in (1, 2, 0.5)}
    assert len(prints) == 3


def qa(number):
    return json.dumps({"input": f"q{number}", "output": "yes"})


def test_the_format_is_found_behind_rows_that_cannot_be_read(tmp_path):
    path = making.write(tmp_path / "t.jsonl", [*["nonsense"] * 60, *map(qa, range(1000))])
    found = prepared(loaded(path, max_bad_rows=0.1))
    [(source, cached, _)] = found.sources
    assert (len(found.train), sum(cached.totals.bad.values()), source.format_name) == (1000, 60, "qa (auto)")
    with pytest.raises(DataError) as raised:
        prepared(loaded(path, max_bad_rows=9))
    assert str(raised.value).startswith("60 rows cannot be used")
    assert str(raised.value).endswith("\n  data.max_bad_rows is 9")


def test_a_source_without_a_row_that_can_be_read_is_counted_with_the_others(tmp_path):
    bad = making.write(tmp_path / "bad.jsonl", ["nonsense"] * 60)
    good = making.write(tmp_path / "good.jsonl", map(qa, range(100)))
    found = prepared(loaded([bad, good], max_bad_rows=0.5))
    (source, cached, _), *_ = found.sources
    assert (len(found.train), sum(cached.totals.bad.values()), source.format_name) == (100, 60, "unknown (auto)")
    with pytest.raises(DataError, match=r"^60 rows cannot be used(.*\n){12} +60 x not valid JSON"):
        prepared(loaded([bad, good]))
    with pytest.raises(DataError, match=r"^60 rows cannot be used"):
        prepared(loaded(bad, max_bad_rows=99))
