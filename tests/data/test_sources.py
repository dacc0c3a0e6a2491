"""Reading rows: every kind of file, and the place of each row."""

from __future__ import annotations

import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from sftcore import DataError
from sftcore.config import SourceConfig
from sftcore.data.sources import files_of, read
from sftcore.document import Document

A, B = {"input": "é 你", "output": "x\ny"}, {"input": "b", "output": ""}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(path, folder=None):
    return [(str(origin), row) for origin, row in read(SourceConfig(str(path)), Document({}, folder=folder))]


def jsonl(*items):
    return "\n".join(json.dumps(item) for item in items)


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("t.jsonl", jsonl(A, B), [1, 2]),
        ("t.jsonl", "\n \n" + jsonl(A) + "\r\n\t\n\r\n" + jsonl(B) + "\n\n", [3, 6]),
        ("t.jsonl", b"\xef\xbb\xbf" + jsonl(A, B).encode(), [1, 2]),
        ("t.jsonl", json.dumps(A, ensure_ascii=False) + "\n" + jsonl(B), [1, 2]),
        ("t.json", json.dumps([A, B], indent=2), [1, 2]),
        ("t.json", b"\xef\xbb\xbf" + json.dumps([A, B]).encode(), [1, 2]),
        ("t.csv", 'input,output\n"é 你","x\ny"\nb,\n', [2, 4]),
        ("t.csv", b'\xef\xbb\xbfinput,output\r\n\r\n"\xc3\xa9 \xe4\xbd\xa0","x\ny"\r\nb,\r\n', [3, 5]),
    ],
)
def test_rows_and_their_lines(folder, name, content, lines):
    path = save(folder / name, content)
    found = rows(path)
    assert found == [(f"{path}:{line}", row) for line, row in zip(lines, [A, B], strict=True)]


def test_parquet_rows_have_no_null_fields(folder):
    table = [
        {"messages": [{"role": "user", "content": "q", "tool_calls": None}], "system": None},
        {"messages": None, "system": "s"},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), folder / "t.parquet")
    assert rows(folder / "t.parquet") == [
        (f"{folder / 't.parquet'}:1", {"messages": [{"role": "user", "content": "q"}]}),
        (f"{folder / 't.parquet'}:2", {"system": "s"}),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", r"^not valid JSON: "),
        (b"{'a': 1}", r"^not valid JSON: "),
        (b'{"a": "\xff"}', "^not valid UTF-8: invalid start byte at byte 8$"),
        (b"[" * 10_000 + b"]" * 10_000, "^not valid JSON: nested too deeply$"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "^not valid JSON: nested too deeply$"),
        (jsonl(A).encode() + b" " + jsonl(B).encode(), "^not valid JSON: Extra data"),
    ],
)
def test_a_bad_line_is_one_row_among_good_ones(folder, line, reason):
    save(folder / "t.jsonl", b"\n".join([jsonl(A).encode(), line, jsonl(B).encode()]))
    (_, first), (place, bad), (_, last) = rows("t.jsonl")
    assert (first, last) == (A, B)
    assert place.endswith("t.jsonl:2")
    assert isinstance(bad, ValueError)
    assert re.search(reason, str(bad))


def test_a_csv_row_with_other_columns_is_one_bad_row(folder):
    save(folder / "t.csv", "input,output\na,b\nc\nd,e,f\ng,h\n")
    found = rows("t.csv")
    assert [place[-1] for place, _ in found] == list("2345")
    assert [str(row) for _, row in found[1:3]] == [
        "the row has 1 columns, the header 2",
        "the row has 3 columns, the header 2",
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.json", "{", "t.json: not valid JSON: .*then name it .jsonl"),
        ("t.json", jsonl(A, B), "not valid JSON: Extra data.*then name it .jsonl"),
        ("t.json", '{"a": 1}', "expected a list of objects"),
        ("t.json", "[" * 10_000, "t.json: not valid JSON"),
        ("t.json", b'["\xff"]', "t.json: not valid JSON: .*utf-8"),
        ("t.csv", 'input,output\na,"b\n', "t.csv:2: not valid CSV"),
        ("t.csv", b"input,output\na,\xff\n", "not valid CSV: .*utf-8"),
        ("t.parquet", b"PAR1", "t.parquet: not a valid Parquet file"),
        ("t.txt", "x", "t.txt: expected a file that ends in .jsonl, .json, .parquet, .csv"),
    ],
)
def test_a_file_that_cannot_be_read(folder, name, content, reason):
    save(folder / name, content)
    with pytest.raises(DataError, match=f"^data source .*{reason}"):
        rows(name)


@pytest.mark.parametrize(
    "path", ["absent.jsonl", "./absent", "/absent/x.jsonl", "a/b/c", "data/absent.jsonl", "data/*.jsonl", "data/x[1]"]
)
def test_a_missing_file(folder, path):
    with pytest.raises(DataError, match=re.escape(f"data source {path}: there is no such file (working directory: ")):
        rows(path)


def test_a_hub_data_set_offline_is_one_clear_line(folder, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as raised:
        rows("owner/name")
    assert re.fullmatch(
        r"data source owner/name: no such file here, and no hub data set \(split 'train'\): .+",
        str(raised.value),
    )


def test_a_hub_data_set(folder, monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", lambda path, split: [{"path": path, "split": split, "system": None}])
    assert rows("owner/name") == [("owner/name:1", {"path": "owner/name", "split": "train"})]


def test_globs_and_folders_are_sorted(folder):
    for name in ("d/b.jsonl", "d/a.jsonl", "d/c.json", "d/note.txt", "d/e/f.jsonl"):
        save(folder / name, json.dumps([A]) if name.endswith("json") else jsonl(A))

    def names(path):
        return [str(file.relative_to(folder)) for file in files_of(SourceConfig(str(path)), Document({}))]

    assert names(folder / "d/*.jsonl") == ["d/a.jsonl", "d/b.jsonl"]
    assert names(folder / "d/**/*.jsonl") == ["d/a.jsonl", "d/b.jsonl", "d/e/f.jsonl"]
    assert names(folder / "d/[bc].*") == ["d/b.jsonl", "d/c.json"]
    assert names(folder / "d") == ["d/a.jsonl", "d/b.jsonl", "d/c.json"]
    assert [place[-11:] for place, _ in rows("d/*.jsonl")] == ["d/a.jsonl:1", "d/b.jsonl:1"]


@pytest.mark.parametrize("path", ["t.jsonl", "*.jsonl"])
def test_a_path_may_be_relative_to_the_configuration(folder, path):
    save(folder / "configs" / "t.jsonl", jsonl(B))
    assert rows(path, folder / "configs") == [(f"{folder / 'configs' / 't.jsonl'}:1", B)]
    save(folder / "t.jsonl", jsonl(A))  # the working directory comes first
    assert [row for _, row in rows(path, folder / "configs")] == [A]
