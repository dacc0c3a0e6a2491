"""In which order a stream reads its sources, and how many rows it expects of them."""

from __future__ import annotations

import gzip
import json
import os
import random

import pyarrow as pa
import pyarrow.parquet
import pytest

from sftcore import Format
from sftcore.config.document import Document
from sftcore.config.schema import SourceConfig
from sftcore.core.errors import DataError
from sftcore.data.sources.formats import DataSource
from sftcore.data.sources.source_rows import SourceRows
from sftcore.data.streaming import setup
from sftcore.data.streaming.setup import SAMPLED_BLOCKS, estimate_rows
from sftcore.data.streaming.stream import ROWS, interleave
from sftcore.labelling import Policy

from ..making import REGISTRY, loaded


def lines(number, text="x"):
    chance = random.Random(1)
    return [{"input": f"{text} {at}", "output": f"{chance.getrandbits(400)}"} for at in range(number)]


def save(path, rows):
    kind = path.suffixes[0]
    if kind == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=700)
        return path
    said = json.dumps(rows) if kind == ".json" else "\n".join(map(json.dumps, rows))
    if kind == ".csv":
        said = "\n".join(["input,output", *(f"{row['input']},{row['output']}" for row in rows)])
    path.write_bytes(gzip.compress(said.encode()) if path.suffix == ".gz" else said.encode())
    return path


def data_source(path, streaming=False, **options):
    config = SourceConfig(str(path), **options)
    return DataSource(config, (), SourceRows(config, Document({}), streaming), "", Format(), Policy())


def stream_sources(*train, **data):
    return setup._open_sources(loaded(list(train), streaming=True, **data), REGISTRY)


def places(made):
    """Return of each block its source, the reading, and its lines."""
    return [(block.source, block.reading, [line for line, _ in block.rows]) for block in interleave(made)]


def test_every_row_comes_once_and_sources_end_together(tmp_path):
    made = stream_sources(
        str(save(tmp_path / "a.jsonl", lines(4 * ROWS))), str(save(tmp_path / "b.jsonl", lines(8 * ROWS)))
    )
    found = places(made)
    for source, size in ((0, 4 * ROWS), (1, 8 * ROWS)):
        assert [line for at, _, block in found if at == source for line in block] == list(range(1, size + 1))
    assert {len(block) for _, _, block in found} == {ROWS}
    for start in range(0, 12, 3):
        assert sorted(source for source, _, _ in found[start : start + 3]) == [0, 1, 1]


@pytest.mark.parametrize(("repeat", "parts"), [(0.5, [0.5]), (1, [1]), (2, [1, 1]), (2.25, [1, 1, 0.25])])
def test_a_source_is_read_as_often_as_it_is_repeated(tmp_path, repeat, parts):
    [source] = stream_sources({"path": str(save(tmp_path / "a.jsonl", lines(ROWS + 1))), "repeat": repeat})
    found = places([source])
    assert [reading for _, reading, _ in found] == [number for number in range(len(parts)) for _ in range(2)]
    assert [source.share_of(reading) for reading in range(source.readings)] == parts


def test_what_is_repeated_stretches_over_the_pass(tmp_path):
    made = stream_sources(
        {"path": str(save(tmp_path / "a.jsonl", lines(ROWS))), "repeat": 4},
        str(save(tmp_path / "b.jsonl", lines(4 * ROWS))),
    )
    assert [source for source, _, _ in places(made)] == [0, 1] * 4


def test_shares_become_rates(tmp_path):
    made = stream_sources(
        {"path": str(save(tmp_path / "a.jsonl", lines(100))), "share": 0.75},
        {"path": str(save(tmp_path / "b.jsonl", lines(200))), "share": 0.25},
    )
    assert [source.rate for source in made] == [2.25, 0.375]
    made = stream_sources({"path": str(tmp_path / "a.jsonl"), "share": 0.5}, {"path": str(tmp_path / "b.jsonl")})
    assert [source.rate for source in made] == [2.0, 1.0]


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.json", "t.csv", "t.parquet"])
@pytest.mark.parametrize("rows", [1, ROWS, ROWS * SAMPLED_BLOCKS, 20_000])
def test_about_how_many_rows_there_are(tmp_path, name, rows):
    path = save(tmp_path / name, lines(rows))

    def there(**more):
        return estimate_rows(data_source(path, **more))

    assert there() == pytest.approx(rows, rel=0 if rows <= ROWS * SAMPLED_BLOCKS else 0.2)
    assert there(limit=rows) <= rows
    assert there(limit=1) == 1


def test_rows_of_many_files_are_expected_by_their_sizes(tmp_path):
    paths = [save(tmp_path / f"{name}.parquet", lines(number, name)) for name, number in (("a", 1000), ("b", 3000))]
    assert all(path.is_file() for path in paths)
    assert estimate_rows(data_source(tmp_path)) == pytest.approx(4000, rel=0.1)


def test_a_file_that_changes_ends_the_run(tmp_path):
    path = save(tmp_path / "a.jsonl", lines(2 * ROWS))
    blocks = interleave(stream_sources(str(path)))
    next(blocks)
    os.utime(path, (1, 1))
    with pytest.raises(DataError, match=r"a\.jsonl: was changed while it was read; run again"):
        list(blocks)


def test_a_source_without_rows(tmp_path):
    path = save(tmp_path / "a.jsonl", [])
    with pytest.raises(DataError, match=r"data source .*a\.jsonl: has no rows"):
        stream_sources({"path": str(path), "format": "qa"})


def test_a_hub_data_set_is_not_downloaded(tmp_path, monkeypatch):
    """A folder, read by the library that reads hub datasets."""
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    rows = lines(1500)
    save(tmp_path / "set" / "train.parquet", rows)
    monkeypatch.setattr("sftcore.data.sources.source_rows.find_files", lambda *_: [])
    source = data_source(tmp_path / "set", streaming=True)
    assert isinstance(source.rows._hub, datasets.IterableDataset)
    for _ in range(2):  # again and again
        assert [(line, row) for _, line, row in source.rows] == list(enumerate(rows, start=1))
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    assert estimate_rows(source) >= 2
