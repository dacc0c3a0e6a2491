"""Which rows are in which set: each in one at most, none lost, and a fingerprint of them."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pyarrow as pa
import pytest

from sftcore.core.errors import DataError
from sftcore.data.selection import select
from sftcore.data.tables.examples import SelectedRows
from sftcore.data.tables.table import SCHEMA, Table

from ..making import key, loaded, said

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def source(texts, digests=None, name="f"):
    """Return a source of rows that say *texts*, each a character; *digests* stand for their labelled tokens."""
    fields = [field for field in SCHEMA.names if field not in ("weights", "lengths")]
    empty = {field: [] for field in fields if pa.types.is_nested(SCHEMA.field(field).type)}
    zero = dict.fromkeys(("file", "line", "longest"), 0)
    rows = [
        {**zero, **empty, "lengths": [], "too_long": False, "key": key(text), "digest": key(digest)}
        for text, digest in zip(texts, digests or texts, strict=True)
    ]
    return SelectedRows.all_of(Table([pa.RecordBatch.from_pylist(rows, SCHEMA)]), [name])


def selected(train, held_out=(), seed=42, options=({},), more=({},), **data):
    """Select from *train* and *held_out*, sources with some *options* each."""
    sources = [{"path": "t", **options[min(at, len(options) - 1)]} for at in range(len(train))]
    if held_out:
        data["eval"] = [{"path": "e", **more[min(at, len(more) - 1)]} for at in range(len(held_out))]
    config = loaded(sources, seed, **data).config.data
    return select([source(texts) for texts in train], [source(texts) for texts in held_out], config, seed)


def texts(parts):
    """The rows of an epoch of each of *parts*."""
    return ["".join(said(part.table.keys[part.rows].repeat(part.times))) for part in parts]


def test_without_further_words_all_rows_are_trained_once_in_order():
    found = selected(["bac", "d"])
    assert texts(found.train) == ["bac", "d"]
    assert (found.eval, found.dropped, found.notes) == ([], {}, [])


WAYS = {
    "all": ({}, {}),
    "held out": ({"eval": {"fraction": 0.3}}, {}),
    "evaluation sources": ({"held_out": ["abcABC", "zz"]}, {}),
    "drawn": ({}, {"repeat": 0.4}),
    "repeated": ({}, {"repeat": 2.5}),
    "held out and drawn": ({"eval": {"fraction": 0.3}}, {"repeat": 0.4}),
    "held out and repeated": ({"eval": {"fraction": 0.3}}, {"repeat": 2.5}),
    "held out and shared": ({"eval": {"fraction": 0.3}}, {"share": 0.3}),
    "evaluation sources and drawn": ({"held_out": ["abcABC", "zz"], "more": ({"repeat": 0.5},)}, {"repeat": 0.4}),
}


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("way", WAYS)
def test_each_row_is_trained_or_evaluated_or_dropped(way, seed):
    data, options = WAYS[way]
    train = [LETTERS, LETTERS[:10] * 2, LETTERS.upper()[:9]]
    found = selected(train, seed=seed, options=({}, options), **data)
    read = sum(map(len, [*train, *data.get("held_out", [])]))
    assert read == sum(len(part.rows) for part in (*found.train, *found.eval)) + sum(found.dropped.values())
    assert 0 not in found.dropped.values()
    for part in (*found.train, *found.eval):
        assert part.rows.tolist() == sorted(set(part.rows.tolist()))
        assert all(part.times > 0)
    trained, evaluated = set("".join(texts(found.train))), set("".join(texts(found.eval)))
    assert trained
    assert bool(evaluated) == ("eval" in data or "held_out" in data)
    assert not trained & evaluated


@pytest.mark.parametrize("options", [{"repeat": 3}, {"repeat": 0.25}])
def test_holdout_rows_are_sampled_as_their_source_and_evaluated_once_at_most(options):
    found = selected([LETTERS * 2, LETTERS * 2], options=(options,), eval={"fraction": 0.5})
    assert {times for part in found.eval for times in part.times.tolist()} == {1}
    assert sum(len(part.rows) for part in found.eval) == (52 if options["repeat"] == 3 else 14)


def test_rows_that_are_evaluated_are_excluded_also_if_they_are_not_sampled():
    found = selected(["abcd"], ["bcx"], more=({"repeat": 0.34},))
    assert (texts(found.train), list(map(len, texts(found.eval)))) == (["ad"], [1])
    assert found.dropped == {"also in data.eval": 2, "not sampled": 2}


def test_sampled_rows_are_reported():
    found = selected([LETTERS, "AB"], ["0123"], options=({}, {"repeat": 2}), more=({"repeat": 0.5},))
    assert found.notes == [
        "t: 2 of 2 rows sampled, as 4 of 30 in an epoch (13.3%)",
        "e: 2 of 4 rows sampled, as 2 of 2 in the evaluation (100.0%)",
    ]


@pytest.mark.parametrize(
    ("train", "held_out", "reason"),
    [
        ([""], (), "the training sources have no rows"),
        (["", ""], (), "the training sources have no rows"),
        (["a"], [""], "data.eval: the sources have no rows"),
        (["ab", "a"], ["ba"], "every row of data.train is also in data.eval"),
    ],
)
def test_a_set_needs_rows(train, held_out, reason):
    with pytest.raises(DataError, match=f"^{reason}$"):
        selected(train, held_out)


def test_a_share_needs_rows():
    with pytest.raises(DataError, match=r"^data source t: has no rows to train, and so cannot have a share of them$"):
        selected(["ab", "c"], ["c"], options=({}, {"share": 0.5}))


def test_a_source_may_be_empty_beside_others():
    assert texts(selected(["", "ab"], ["", "x"]).train) == ["", "ab"]


def test_the_fingerprint_goes_by_labelled_tokens_times_sets_and_order():
    def fingerprint(texts="ab", digests=None, held_out="x", name="f", repeat=1):
        config = loaded({"path": "t", "repeat": repeat}, eval="e").config.data
        return select([source(texts, digests, name)], [source(held_out)], config, 42).fingerprint()

    same = [fingerprint(), fingerprint("cd", "ab"), fingerprint(name="g")]
    others = [fingerprint("ba"), fingerprint("ab", "ac"), fingerprint("a"), fingerprint(repeat=2)]
    others += [fingerprint("a", held_out="bx"), fingerprint(held_out="y")]
    assert Counter(chain(same, others)) == {same[0]: 3, **dict.fromkeys(others, 1)}
    assert same[0].startswith("sha256:")


def test_rows_that_change_sets_change_the_fingerprint():
    assert selected(["a", "b"], ["c"]).fingerprint() != selected(["a"], ["b", "c"]).fingerprint()


def test_the_fingerprint_is_the_same_however_rows_are_divided_into_sources():
    assert selected(["abc", "d"]).fingerprint() == selected(["ab", "", "cd"]).fingerprint()
