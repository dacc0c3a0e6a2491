"""A source of which the chat template cannot label most rows ends a run, prepared or streamed."""

from __future__ import annotations

from contextlib import closing
from itertools import islice

import pytest

from sftcore import ConfigError
from sftcore.core.errors import DataError
from sftcore.data import RowOrder, prepare, prepare_stream

from ..making import REGISTRY, loaded, make_labeller, write

LABELLER = make_labeller()


@pytest.fixture
def source(tmp_path):
    """A function that writes a source: some rows of which the template rejects a message, and others."""

    def written(*numbers, name="t.jsonl"):
        words = [word for number, word in zip(numbers, ("bad", "good", "bad"), strict=False) for _ in range(number)]
        rows = ({"input": word, "output": f"answer {at}"} for at, word in enumerate(words))
        return write(tmp_path / name, rows)

    return written


def read(train, streaming, rows=5000, **data):
    """Prepare the data; of a stream, read this many rows."""
    made = loaded(train, streaming=streaming, **data)
    if not streaming:
        return prepare(made, REGISTRY, LABELLER)
    prepared = prepare_stream(made, REGISTRY, LABELLER)
    with closing(prepared.train) as stream:
        stream.start()
        return list(islice(stream.items(RowOrder()), rows))


@pytest.mark.parametrize("streaming", [False, True])
def test_more_than_half_of_a_source_ends_the_run(source, streaming):
    read([source(5, 5), source(0, 90, name="o.jsonl")], streaming)
    with pytest.raises(DataError) as caught:
        read([source(0, 90, name="o.jsonl"), source(6, 5)], streaming)
    said = str(caught.value).splitlines()
    assert (
        "t.jsonl: 6 of 11 rows cannot be labelled with this chat template, more than data.max_unlabelled allows (50%)"
        in said[0]
    )
    assert said[1] == "       6 x the chat template rejects it: message 1: not this word"
    assert said[2].endswith("t.jsonl:1: the chat template rejects it: message 1: not this word")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("most", "bad", "ends"), [(0.0, 1, True), (0.0, 0, False), (0.2, 2, False), (0.2, 3, True), (1.0, 9, False)]
)
def test_the_share_can_be_set(source, streaming, most, bad, ends):
    train = [source(bad, 10 - bad), source(0, 10, name="o.jsonl")]
    if not ends:
        read(train, streaming, max_unlabelled=most)
        return
    with pytest.raises(DataError, match=r"more than data\.max_unlabelled allows"):
        read(train, streaming, max_unlabelled=most)


def test_malformed_rows_count_neither_as_labelled_nor_as_unlabelled(source, tmp_path):
    path = source(2, 2)
    with open(path, "a") as file:
        file.write('\n{"input": "x"}' * 4)
    read(path, False, max_bad_rows=4)
    with pytest.raises(DataError, match=r"more than data\.max_unlabelled allows"):
        read(path, False, max_bad_rows=4, max_unlabelled=0.4)


def test_a_stream_counts_all_that_was_read(source):
    """The first 256 rows say nothing of a long source; its later rows count too."""
    read(source(300, 700), True, shuffle_buffer=100)
    with pytest.raises(DataError, match=r"1,148 of 2,048 rows cannot be labelled"):
        read(source(0, 900, 2000), True, rows=901, shuffle_buffer=100)
    with pytest.raises(DataError, match=r"1,024 of 1,024 rows"):
        prepare_stream(loaded([source(1500, 3000), source(0, 9, name="o.jsonl")], streaming=True), REGISTRY, LABELLER)


def test_a_share_is_between_0_and_1():
    with pytest.raises(ConfigError, match=r"data.max_unlabelled: must be a share between 0 and 1, not 2"):
        loaded("t.jsonl", max_unlabelled=2.0)
