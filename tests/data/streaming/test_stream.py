"""Rows that are trained as they come: each once in a pass, in an order of its own, and all accounted for."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest

from sftcore import ConfigError
from sftcore.core.errors import DataError
from sftcore.data import RowOrder, prepare, prepare_stream
from sftcore.data.batching.bin_packing import Bins
from sftcore.data.streaming import setup
from sftcore.data.streaming.stream import ROWS
from sftcore.data.training_set import Progress

from ..making import REGISTRY, loaded, make_labeller, write

LABELLER = make_labeller()
ROOT = Path(__file__).parents[3]


def qa(*asked, answer="yes"):
    return [{"input": question, "output": answer} for question in asked]


def rows(number, name="row"):
    return qa(*(f"{name} {at}" for at in range(number)))


def asked(example):
    """The questions in the documents of *example*."""
    return re.findall(r"\[user\](.*?)</s>", LABELLER.tokenizer.decode(example.input_ids))


def streamed(train, seed=42, **data):
    return prepare_stream(loaded(train, seed, streaming=True, **data), REGISTRY, LABELLER)


def taken(prepared, number, seed=1, trained=None, sequential=False):
    """The first items, and the account of the rows once *trained* of them are trained."""
    with closing(prepared.train) as stream:
        stream.start()
        found = list(islice(stream.items(RowOrder(seed, sequential)), number))
        stream.trained(number if trained is None else trained, 1, frozenset())
        return found, prepared.final(Progress(evaluated=len(prepared.eval)))


def texts(found):
    return [text for example in found[0] for text in asked(example)]


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "t.jsonl", rows(1000))


NAMES = [f"row {at}" for at in range(1000)]


@pytest.mark.parametrize("buffer", [1, 7, 300, 1000, 10_000])
def test_every_row_comes_once_in_a_pass(file, buffer):
    said = texts(taken(streamed(file, shuffle_buffer=buffer), 3000))
    passes = [said[start : start + 1000] for start in (0, 1000, 2000)]
    for one in passes:
        assert sorted(one) == sorted(NAMES)
        for start in range(0, 1000 - buffer, buffer):  # no row leaves its window
            assert set(one[start : start + buffer]) == set(NAMES[start : start + buffer])
    assert len({json.dumps(one) for one in passes}) == (3 if buffer > 1 else 1)


def test_the_order_is_one_of_the_seed_and_of_nothing_else(file):
    said = texts(taken(streamed(file, workers=1), 1500))
    assert texts(taken(streamed(file, workers=2), 1500)) == said
    assert texts(taken(streamed(file, workers=2), 1500, seed=2)) != said
    assert texts(taken(streamed(file), 1500, sequential=True)) == [*NAMES, *NAMES[:500]]


def test_a_stream_is_what_is_prepared(file, tmp_path):
    """The same tokens, labels and weights as of rows that are prepared first."""
    train = [{"path": file, "weight": 0.5}, write(tmp_path / "o.jsonl", rows(40, "other"))]
    prepared = prepare(loaded(train, max_length=30, truncation="truncate_right"), REGISTRY, LABELLER)
    found, _ = taken(streamed(train, max_length=30, truncation="truncate_right"), len(prepared.train))

    def told(examples):
        return sorted(
            (
                str(one.origins[0]),
                list(one.input_ids),
                list(one.labels),
                None if one.weights is None else list(one.weights),
            )
            for one in examples
        )

    assert told(found) == told(prepared.train)


def test_documents_are_packed_whole_by_best_fit(tmp_path):
    chance = random.Random(1)
    questions = [f"{number} " + "x" * chance.randrange(60) for number in range(700)]
    path = write(tmp_path / "t.jsonl", qa(*questions))
    found, after = taken(streamed(path, packing=True, max_length=100, shuffle_buffer=350), 300)
    said = [text for item in found for text in asked(item)]
    lengths = {text: len(LABELLER.tokenizer(f"[user]{text}</s>[assistant]yes</s>")["input_ids"]) for text in questions}
    expected = [Bins([lengths[text] for text in half], 100) for half in (questions[:350], questions[350:])]
    first, both = len(expected[0]), sum(map(len, expected))
    assert both < 300
    assert sorted(text for item in found[:first] for text in asked(item)) == sorted(questions[:350])
    assert sorted(text for item in found[:both] for text in asked(item)) == sorted(questions)
    assert max(len(item.input_ids) for item in found) <= 100
    assert [lengths[text] for text in said] == [length for item in found for length in item.lengths]
    told = after.train_summary.packing
    assert told["rows"] == 300
    assert told["rows_before"] == after.train_summary.examples == len(said)
    assert told["fill"] == sum(len(item.input_ids) for item in found) / 30_000


def test_no_row_of_a_stream_is_trained_that_is_evaluated(file, tmp_path):
    held_out = write(tmp_path / "e.jsonl", rows(100))
    prepared = streamed(file, eval=held_out)
    assert len(prepared.eval) == 100
    found = taken(prepared, 1800)
    assert Counter(texts(found)) == Counter(NAMES[100:] * 2)
    assert found[1].account.dropped == {"also in data.eval": 200}
    assert found[1].account.evaluated == 100


def test_a_stream_has_no_holdout(file):
    with pytest.raises(ConfigError, match=r"data.eval: a fraction of a stream cannot be held out.*name it here"):
        streamed(file, eval={"fraction": 0.1})


@pytest.mark.parametrize("repeat", [0.3, 1.3])
def test_stream_rows_are_sampled_by_content_and_seed(tmp_path, repeat):
    def drawn(order, repeat, seed=42):
        path = write(tmp_path / "t.jsonl", qa(*order))
        found, after = taken(streamed({"path": path, "repeat": repeat}, seed), 2 * round(1000 * repeat) + 200)
        whole = after.account.read // (1000 * (2 if repeat > 1 else 1))
        assert whole >= 2
        counts = Counter(text for item in found for text in asked(item))
        return {text for text, times in counts.items() if times > 1 + (whole - 1) * int(repeat)}

    some = drawn(NAMES, repeat)
    assert 200 < len(some) < 400
    assert drawn(random.Random(1).sample(NAMES, 1000), repeat) == some
    assert drawn(NAMES, repeat, 43) != some
    assert drawn(NAMES, repeat + 0.2) > some


def test_shares_of_a_stream_hold_throughout_a_pass(tmp_path):
    train = [
        {"path": write(tmp_path / "a.jsonl", rows(512, "a")), "share": 0.25},
        {"path": write(tmp_path / "b.jsonl", rows(6 * ROWS, "b"))},
    ]
    said = texts(taken(streamed(train, shuffle_buffer=ROWS), 4 * ROWS * 2))
    for start in (0, 4 * ROWS):
        here = Counter(text[0] for text in said[start : start + 4 * ROWS])
        assert here["a"] == pytest.approx(ROWS, rel=0.05)


def test_limits_formats_columns_and_policies_are_those_of_the_source(file, tmp_path):
    path = write(tmp_path / "o.jsonl", [{"prompt": f"p {at}", "output": "no"} for at in range(9)])
    train = [
        {"path": file, "limit": 5, "train_on": "all"},
        {"path": path, "columns": {"prompt": "input"}, "format": "qa", "weight": 2.0},
    ]
    found, _ = taken(streamed(train), 14)
    by_text = {asked(item)[0]: item for item in found}
    assert set(by_text) == {*NAMES[:5], *(f"p {at}" for at in range(9))}
    assert all((item.labels[1:] == item.input_ids[1:]).all() for text, item in by_text.items() if text[0] == "r")
    assert all(max(item.weights) == 2.0 for text, item in by_text.items() if text[0] == "p")


BAD = '{"input": "no answer"}'


def with_bad(tmp_path, *places, size=1000):
    lines = rows(size)
    for place in places:
        lines[place] = BAD
    return write(tmp_path / "t.jsonl", lines)


def test_a_bad_row_among_the_first_is_reported_before_anything_is_trained(tmp_path):
    with pytest.raises(DataError, match=r"1 row cannot be used; fix or remove:\n  .*t\.jsonl:4: the key 'output'"):
        streamed(with_bad(tmp_path, 3))


def test_a_bad_row_ends_the_run_where_it_stands(tmp_path):
    prepared = streamed(with_bad(tmp_path, 700))
    with pytest.raises(DataError, match=r"t\.jsonl:701: the key 'output'"):
        taken(prepared, 1000, sequential=True)
    account = prepared.final(Progress(evaluated=len(prepared.eval))).account
    assert account.rejected == {"the key 'output' is missing (found: input)": 1}
    assert account.read == 768


@pytest.mark.parametrize(("most", "bad", "told"), [(2, 3, "data.max_bad_rows is 2"), (2, 2, ""), (0.003, 3, "")])
def test_a_number_of_bad_rows_is_tolerated(tmp_path, most, bad, told):
    prepared = streamed(with_bad(tmp_path, *range(300, 300 + bad)), max_bad_rows=most, shuffle_buffer=100)
    if told:
        with pytest.raises(DataError, match=told):
            taken(prepared, 600)
    else:  # the second pass does not add to the first
        assert taken(prepared, 3000)[1].account.rejected.popitem()[1] >= 3 * bad


def test_a_share_of_bad_rows_is_checked_at_the_end_of_a_pass(tmp_path):
    prepared = streamed(with_bad(tmp_path, *range(0, 20)), max_bad_rows=0.019, shuffle_buffer=100)
    with closing(prepared.train) as stream:
        stream.start()
        items = stream.items(RowOrder(1, sequential=False))
        assert len(list(islice(items, 900))) == 900
        with pytest.raises(DataError, match=r"20 rows cannot(.|\n)*data.max_bad_rows is 1.90% of 1,000 rows"):
            list(islice(items, 200))


def test_bad_rows_that_are_evaluated_count_too(tmp_path):
    held_out = write(tmp_path / "e.jsonl", [*rows(5, "held out"), BAD])
    prepared = streamed(with_bad(tmp_path, 600), eval=held_out, max_bad_rows=1)
    with pytest.raises(DataError, match=r"2 rows cannot be used; (.|\n)*e\.jsonl:6(.|\n)*t\.jsonl:601"):
        taken(prepared, 1000)


def test_rejected_rows_are_in_quarantine_once(tmp_path):
    path = with_bad(tmp_path, 3, 500)
    prepared = streamed({"path": path, "repeat": 2}, max_bad_rows=5)
    prepared.train.save_rejected(tmp_path / "q.jsonl")
    _, after = taken(prepared, 5000)
    found = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert [line["source"] for line in found] == [f"{path}:4", f"{path}:501"]
    assert found[0]["row"] == json.loads(BAD)
    assert after.account.rejected.popitem()[1] >= 8


@pytest.mark.parametrize("trained", [0, 1, 299, 300, 301, 998, 1200])
def test_every_row_that_is_read_is_accounted_for(tmp_path, trained):
    lines = [*rows(600), BAD, *qa("bad"), *qa("empty", answer=""), *qa("long" * 50), *rows(400, "more")]
    path = write(tmp_path / "t.jsonl", lines)
    data = {
        "max_length": 100,
        "truncation": "drop_row",
        "max_bad_rows": 1,
        "shuffle_buffer": 300,
        "train_on_stop": False,
    }
    found, after = taken(streamed(path, **data), trained + 5, trained=trained)
    account, summary = after.account, after.train_summary
    assert account.trained == summary.kept == summary.examples == trained
    assert summary.tokens == sum(len(item.input_ids) for item in found[:trained])
    assert summary.trained == sum(int((item.labels != -100).sum()) for item in found[:trained])
    left = account.dropped.get("read, but not trained before the run ended", 0)
    assert 5 <= left + 5 <= 300 + 3 * ROWS
    if trained >= 998:
        assert set(account.rejected.values()) == {1 if trained < 1000 else 2} or trained > 1000
        assert account.dropped["too long"] >= 1
        assert account.dropped["without a trained token"] >= 1


def test_what_is_trained_has_a_fingerprint(file):
    def fingerprint(number, seed=1, **data):
        return taken(streamed(file, shuffle_buffer=100, **data), number + 50, trained=number, seed=seed)[1].fingerprint

    assert fingerprint(500) == fingerprint(500)
    assert len({fingerprint(500), fingerprint(501), fingerprint(501, seed=2), fingerprint(500, train_on="all")}) == 4


def test_a_stream_keeps_few_shuffle_windows(tmp_path):
    path = write(tmp_path / "t.jsonl", rows(5000))
    with closing(streamed(path, shuffle_buffer=50).train) as stream:
        stream.start()
        for number, _ in enumerate(islice(stream.items(RowOrder(1, sequential=False)), 12_000), start=1):
            stream.trained(number, 1, frozenset())
            assert len(stream._windows) <= 2


def test_columns_formats_and_templates_are_reported_before(file, tmp_path):
    with pytest.raises(
        ConfigError, match=r"data.train.columns.prompt: no row among the first 256 of .* has this column"
    ):
        streamed({"path": file, "columns": {"prompt": "question"}, "format": "qa"})
    with pytest.raises(DataError, match="no format fits its keys"):
        streamed(write(tmp_path / "o.jsonl", [{"text": "x"}]))
    with pytest.raises(ConfigError, match="no conversation can be labelled with the chat template"):
        prepare_stream(loaded(file, streaming=True), REGISTRY, make_labeller("{{ raise_exception('no') }}"))


def test_where_nothing_is_trained_there_is_no_stream(tmp_path):
    path = write(tmp_path / "t.jsonl", qa(*NAMES[:600], answer=""))
    with pytest.raises(
        DataError, match=r"no token of any row \(of 600\) is trained; the first:\n  user 'row 0'|t.jsonl:1"
    ):
        streamed(path, train_on_stop=False)
    path = write(tmp_path / "t.jsonl", [BAD] * 600)
    with pytest.raises(DataError, match="600 rows cannot be used"):
        streamed({"path": path, "format": "qa"}, max_bad_rows=0.5)


def test_a_source_may_begin_with_rows_of_which_nothing_is_trained(tmp_path):
    path = write(tmp_path / "t.jsonl", [*qa(*NAMES[:600], answer=""), *qa("at last")])
    assert texts(taken(streamed(path, train_on_stop=False), 2)) == ["at last"] * 2


def test_a_pass_in_which_nothing_is_left_ends_the_run(file):
    prepared = streamed(file, eval=file)
    with pytest.raises(DataError, match=r"no token of any row \(of 1,000\) is trained: 1,000 also in data.eval"):
        taken(prepared, 1)


def test_the_first_rows_are_reported_and_shown(file):
    prepared = streamed(file)
    assert prepared.train_summary.worked_example["source"] == f"{file}:1"
    assert prepared.train_summary.notes[0].startswith("the first 256 rows: ")
    assert re.search(
        r"t\.jsonl: a stream of about 1,\d\d\d rows, format qa \(auto\)|about 9\d\d rows", prepared.notes[0]
    )
    assert len(prepared.examples) == ROWS
    assert setup.ROWS == ROWS


def test_a_process_ends_also_while_it_is_sent_a_result(tmp_path):
    script = tmp_path / "leave.py"
    script.write_text(
        "import sys\n"
        "from tests.data.streaming.test_stream import *\n"
        "from sftcore.data.preparation.blocks import Block\n"
        "from sftcore.data.preparation.pool import WorkerPool\n"
        "row = {'input': 'q', 'output': 'a' * 8_000_000}\n"
        "[stream_source] = setup._open_sources(loaded(sys.argv[1], streaming=True, max_length=10**9), REGISTRY)\n"
        "with WorkerPool([stream_source.source], LABELLER, 0, 2) as workers:\n"
        "    next(workers.map([Block(0, 0, [(1, row)], 0.0)] * 9, lambda: True, ahead=1))\n"
        "    while not workers._pool._result_queue._reader.poll():\n"
        "        pass\n"
        "print('left')\n"
    )
    command = [sys.executable, str(script), write(tmp_path / "t.jsonl", rows(1))]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)
    assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr
