"""Tables that come from other processes through memory that is shared."""

from __future__ import annotations

import os
import time
from itertools import islice

import pyarrow as pa
import pytest

from sftcore.core.errors import DataError
from sftcore.data.preparation import blocks, pool, worker
from sftcore.data.preparation.worker import label_block
from sftcore.data.streaming import setup
from sftcore.data.tables.label_batch import label_rows
from sftcore.runtime.signals import Stopped

from ..making import REGISTRY, loaded, make_labeller, write

LABELLER = make_labeller()


def table(*values):
    return pa.RecordBatch.from_arrays([pa.array(values, pa.int32())], ["a"])


def test_a_table_slot_has_the_table_written_last():
    slot = worker.TableSlot()
    for values in ([1, 2, 3], [], [None, 5]):
        assert slot.write(table(*values))
        assert slot.read().equals(table(*values))


def test_a_table_slot_rejects_tables_that_are_too_large(monkeypatch):
    monkeypatch.setattr(worker, "SLOT_SIZE", worker.SCHEMA_SIZE + 1000)
    slot = worker.TableSlot()
    assert slot.write(table(1))
    assert not slot.write(table(*range(1000)))
    assert slot.read().equals(table(1))


@pytest.fixture
def source(tmp_path):
    [stream_source] = setup._open_sources(
        loaded(write(tmp_path / "t.jsonl", [{"input": "q", "output": "a"}]), streaming=True), REGISTRY
    )
    return stream_source.source


def given(number):
    """*number* blocks, each longer than the one before."""
    return [
        blocks.Block(0, 0, [(line, {"input": f"q {at}", "output": f"a {line}"}) for line in range(1, at + 2)], 0.0)
        for at in range(number)
    ]


def received(found):
    """The results of blocks; the content of a table may be changed by the next one."""
    return [done._replace(table=done.table.slice().to_pylist()) for done in found]


@pytest.mark.parametrize("room", [1 << 20, 0])
@pytest.mark.parametrize("ahead", [0, 3])
def test_tables_are_the_same_whichever_way_they_come(source, monkeypatch, room, ahead):
    monkeypatch.setattr(worker, "SLOT_SIZE", worker.SCHEMA_SIZE + room)
    right = received(label_block(block, [source], LABELLER, True) for block in given(30))
    with pool.WorkerPool([source], LABELLER, 1 << 30, 2) as several:
        assert received(several.map(given(30), lambda: True, ahead)) == right


def test_a_map_left_in_the_middle_does_not_affect_the_next(source):
    right = received(label_block(block, [source], LABELLER, True) for block in given(30))
    with pool.WorkerPool([source], LABELLER, 1 << 30, 2) as several:
        assert received(islice(several.map(given(30), lambda: True), 8)) == right[:8]
        first, second = (several.map(given(30), lambda: True) for _ in range(2))
        assert [received(pair) for pair in zip(first, second, strict=True)] == [[done, done] for done in right]


@pytest.fixture
def slow(monkeypatch):
    """Let other processes take longer than this one."""
    this = os.getpid()
    monkeypatch.setattr(
        "sftcore.data.preparation.worker.label_rows",
        lambda *a: time.sleep(0.01 * (os.getpid() != this)) or label_rows(*a),
    )


@pytest.fixture
def here(monkeypatch, slow):
    """The lines of blocks that this process labels, with what it lets ``tokenizers`` do then."""
    found = []

    def noted(block, *args):
        found.append((len(block.rows), os.environ.get("TOKENIZERS_PARALLELISM")))
        return label_block(block, *args)

    monkeypatch.setattr(pool, "label_block", noted)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    return found


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_this_process_labels_what_is_too_much_for_the_others(source, here, processes):
    with pool.WorkerPool([source], LABELLER, 1 << 30, processes) as several:
        assert [done.totals.read for done in several.map(given(30), lambda: True)] == [*range(1, 31)]
    assert {told for _, told in here} == {"true" if processes == 1 else "false"}
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    assert len(here) == 30 if processes == 1 else 0 < len(here) < 30 - pool.AHEAD
    assert here[-1][0] == 30  # behind another block it would wait, while nobody has anything left to do


def test_a_pool_that_labels_ahead_leaves_all_to_workers(source, here):
    with pool.WorkerPool([source], LABELLER, 1 << 30, 2) as several:
        assert len([*several.map(given(30), lambda: True, ahead=3)]) == 30
    assert not here


def test_an_error_of_this_process_waits_for_its_turn(source, monkeypatch, slow):
    def failing(block, *args):
        raise DataError(str(len(block.rows) - 1))

    monkeypatch.setattr(pool, "label_block", failing)
    found = []
    with pool.WorkerPool([source], LABELLER, 1 << 30, 2) as several, pytest.raises(DataError) as error:
        found += (done.totals.read for done in several.map(given(30), lambda: True))
    assert len(found) == int(str(error.value)) >= pool.AHEAD


def test_sigterm_ends_the_main_process_while_it_labels(source, monkeypatch, slow):
    def stopped(*args):
        raise Stopped("SIGTERM")

    monkeypatch.setattr(pool, "label_block", stopped)
    with pytest.raises(Stopped), pool.WorkerPool([source], LABELLER, 1 << 30, 2) as several:
        list(several.map(given(30), lambda: True))
    assert not several._pool
