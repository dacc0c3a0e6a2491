"""Reading rows: every kind of file, and the place of each row."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from sftcore.config.document import Document
from sftcore.config.schema import SourceConfig
from sftcore.core.errors import DataError
from sftcore.data.sources.source_rows import SourceRows, find_files

A, B = {"input": "é 你", "output": "x\ny"}, {"input": "b", "output": None}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(path, folder=None, **options):
    source = SourceRows(SourceConfig(str(path), **options), Document({}, folder=folder))
    return [(str(origin), row) for origin, row in source.decoded()]


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
        ("t.json", jsonl(A, B), [1, 2]),
        ("T.JSONL", jsonl(A, B), [1, 2]),
        ("t.ndjson", jsonl(A, B), [1, 2]),
        ("t.csv", 'input,output\n"é 你","x\ny"\nb,\n', [2, 4]),
        ("t.csv", 'input,output\n"é 你","x\ny"\nb," "\n', [2, 4]),
        ("t.Tsv", 'input\toutput\n"é 你"\t"x\ny"\nb\t\n', [2, 4]),
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
        (b"{'a': 1}", r"^not valid JSON: Expecting property .* at column 2; .* by Python\? write it with json\.dumps$"),
        (b'{"a": True}', r"^not valid JSON: Expecting value at column 7; .* by Python\? write it with json\.dumps$"),
        (b'{"a": "\t"}', "^not valid JSON: Invalid control character at column 8$"),
        (b'{"a": "', "^not valid JSON: Unterminated string starting at column 7$"),
        (jsonl(A).encode() + b"\r" + jsonl(B).encode(), "line feed, not in a carriage return$"),
        (b'{"a": "\xff"}', "^not valid UTF-8: invalid start byte at byte 8$"),
        (b"[" * 10_000 + b"]" * 10_000, "^not valid JSON: nested too deeply$"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "^not valid JSON: nested too deeply$"),
        (jsonl(A).encode() + b" " + jsonl(B).encode(), "^not valid JSON: Extra data"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "^not valid JSON: the key 'b' appears twice in an object$"),
        (b'{"a": NaN}', "^not valid JSON: NaN is not a number in JSON$"),
        (b'{"a": -Infinity}', "^not valid JSON: -Infinity is not a number in JSON$"),
        (b'{"a": 1e999}', "^not valid JSON: 1e999 is not a number in JSON$"),
        (b'{"a": ' + b"9" * 5000 + b"}", "^not valid JSON: "),
        (b"\xef\xbb\xbf" + jsonl(A).encode(), "at column 1 .a byte order mark, as where files were put together; rem"),
        (b"{\0}", "^not valid JSON: "),
    ],
)
def test_a_bad_line_is_one_row_among_good_ones(folder, line, reason):
    save(folder / "t.jsonl", b"\n".join([jsonl(A).encode(), line, jsonl(B).encode()]))
    (_, first), (place, bad), (_, last) = rows("t.jsonl")
    assert (first, last) == (A, B)
    assert place.endswith("t.jsonl:2")
    assert isinstance(bad, ValueError)
    assert re.search(reason, str(bad))
    assert bad.raw == line.decode(errors="backslashreplace")


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (b'{"a": NaN}', "^not valid JSON: NaN is not a number in JSON$"),
        (b'{"a": 1, "a": 1}', "^not valid JSON: the key 'a' appears twice in an object$"),
        (b'{"a": "\xff"}', "^not valid UTF-8$"),
        (b"NaN", "^not valid JSON: NaN is not a number in JSON$"),
    ],
)
def test_a_bad_item_is_one_row_among_good_ones(folder, item, reason):
    save(folder / "t.json", b"[" + b" ,\n".join([jsonl(A).encode(), item, jsonl(B).encode()]) + b"]\n")
    (_, first), (place, bad), (_, last) = rows("t.json")
    assert (first, last) == (A, B)
    assert place.endswith("t.json:2")
    assert re.search(reason, str(bad))
    assert bad.raw == item.decode(errors="backslashreplace")


def test_an_empty_list(folder):
    assert rows(save(folder / "t.json", " [ ] \n")) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"a,\xff", "not valid UTF-8"),
        (b'"a\nx,\xff",b', "not valid UTF-8"),
        (b'"a"b,c', "not valid CSV: ',' expected after '\"'"),
    ],
)
def test_a_bad_csv_row_is_one_row_among_good_ones(folder, line, reason):
    save(folder / "t.csv", b"\n".join([b"input,output", b"a,b", line, b"g,h", b""]))
    first, (place, bad), last = rows("t.csv")
    assert (first[1], last[1]) == ({"input": "a", "output": "b"}, {"input": "g", "output": "h"})
    assert place.endswith("t.csv:3")
    assert str(bad) == reason
    assert bad.raw == line.decode(errors="backslashreplace")
    assert last[0].endswith(f":{4 + line.count(10)}")


def test_a_csv_row_with_other_columns_is_one_bad_row(folder):
    save(folder / "t.csv", "input,output\na,b\nc\nd,e,f\ng,h\n")
    found = rows("t.csv")
    assert [place[-1] for place, _ in found] == list("2345")
    assert [str(row) for _, row in found[1:3]] == [
        "the row has 1 column, the header 2",
        "the row has 3 columns, the header 2",
    ]
    assert [row.row for _, row in found[1:3]] == [["c"], ["d", "e", "f"]]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.json", "{", "t.json: not valid JSON: "),
        ("t.json", '{"a":\n1}\n{"a": 1}', "not valid JSON: Extra data at line 3, column 1"),
        ("t.json", '{"a": 1}', r"is one object \(keys: a\), not a list of objects; put it in \[ \] if it is a row"),
        ("t.json", '{"n": 1, "rows": [{}]}', r"one object \(keys: n, rows\), .*; keep the list under 'rows' only"),
        ("t.json", "3", "expected a list of objects, not a number"),
        ("t.jsonl", "[\n{}\n]", "is one list over several lines, not an object per line; name it .json"),
        ("t.jsonl", "[{},\n{}]", "is one list over several lines, not an object per line; name it .json"),
        ("t.jsonl", "\ufeff{\n}", "has objects over several lines; write one per line: jq -c . t.jsonl > NEW"),
        ("t.json", "[" * 10_000, "t.json: not valid JSON"),
        ("t.json", b'[{"\xff"}]', "t.json: not valid JSON: Expecting ':' delimiter"),
        ("t.json", "[1 2]", "t.json: not valid JSON: Expecting ',' delimiter"),
        ("t.json", "[1,]", "t.json: not valid JSON: Expecting value at column 4$"),
        ("t.json", "[1,\n2 3]", "t.json: not valid JSON: Expecting ',' delimiter at line 2, column 3$"),
        ("t.json", "[1] 2", "t.json: not valid JSON: Extra data"),
        ("t.json", "[] 2", "t.json: not valid JSON: Extra data"),
        ("t.csv", 'input,output\na,"b\n', "t.csv:2: not valid CSV"),
        ("t.csv", b"input,\xff\na,b\n", "t.csv:1: not valid UTF-8"),
        ("t.csv", "input,output,input\na,b,c\n", "t.csv:1: the header has the column 'input' twice"),
        ("t.csv", "input;output\na;b\n", r"1: the header is one column, 'input;output'; .* \(delimiter: \";\"\)"),
        ("t.csv", "input\toutput\na\tb\n", r"t.csv:1: .* \(delimiter: \"\\t\"\)"),
        ("t.tsv", "input,output\na,b\n", r"t.tsv:1: .* \(delimiter: \",\"\)"),
        ("t.parquet", b"PAR1", "t.parquet: not a valid Parquet file"),
        ("t.arrow", b"PAR1", "t.arrow: not a valid Arrow file"),
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
    with pytest.raises(DataError, match=re.escape(f"data source {path}: the file does not exist (working directory: ")):
        rows(path)


def test_a_missing_file_of_nearly_this_name(folder):
    save(folder / "train.jsonl", jsonl(A))
    with pytest.raises(DataError, match=r"does not exist .*; did you mean 'train.jsonl'\?"):
        rows("trian.jsonl")
    with pytest.raises(DataError, match="; only files of this machine and hub datasets can be read"):
        rows("s3://bucket/train.jsonl")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.csv", "t.jsonl.gz"])
def test_text_of_wide_characters_is_named(folder, encoding, name):
    content = ("input,output\na,b" if "csv" in name else jsonl(A)).encode(encoding)
    save(folder / name, gzip.compress(content) if name.endswith(".gz") else content)
    wanted = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
    with pytest.raises(DataError, match=rf"{name}: is {wanted}, and must be UTF-8; convert it: iconv -f {wanted} "):
        rows(name)
    with pytest.raises(DataError, match=f"is {wanted}"):
        list(SourceRows(SourceConfig(name), Document({})).line_ranges(9, 9) or rows(name))


@pytest.mark.parametrize("header", ["input,output", "\ufeffinput,output", "\ufeffin,out"])
def test_a_second_header_of_csv_is_not_a_row(folder, header):
    save(folder / "t.csv", f"\ufeffinput,output\na,b\n{header}\nc,d\n")
    first, (place, bad), last = rows("t.csv")
    assert (first[1], last[1]) == ({"input": "a", "output": "b"}, {"input": "c", "output": "d"})
    assert place.endswith("t.csv:3")
    assert "a header again, as where files were put together; remove it" in str(bad)


def test_any_delimiter(folder):
    save(folder / "t.csv", "input;output\na,b;c\n")
    assert rows("t.csv", delimiter=";") == [("t.csv:2", {"input": "a,b", "output": "c"})]
    save(folder / "one.csv", "a,b\nc,d\n")
    assert rows("one.csv", delimiter=";") == [("one.csv:2", {"a,b": "c,d"})]  # as the source says
    save(folder / "t.jsonl", jsonl(A))
    with pytest.raises(DataError, match=r"'delimiter' is for files that end in .csv or .tsv"):
        rows("t.jsonl", delimiter=";")


def test_what_files_do_not_have(folder):
    save(folder / "t.jsonl", jsonl(A))
    for option in ({"split": "test"}, {"subset": "x"}):
        with pytest.raises(DataError, match=f"t.jsonl: has '{next(iter(option))}', and files have none"):
            rows("t.jsonl", **option)


def test_folders_that_datasets_saved(folder):
    import datasets

    one, two = datasets.Dataset.from_list([A, B]), datasets.Dataset.from_list([B])
    one.save_to_disk(folder / "one", num_shards=2)
    datasets.DatasetDict(train=one.select([1]), test=two).save_to_disk(folder / "both")
    shards = [f"one/data-0000{number}-of-00002.arrow:1" for number in range(2)]
    b = {"input": "b"}
    assert rows("one") == [(shards[0], A), (shards[1], b)]
    assert rows(shards[0][:-2]) == [(shards[0], A)]
    assert rows("both") == [("both/train/data-00000-of-00001.arrow:1", b)]  # without the rows not selected
    assert rows("both", split="test") == [("both/test/data-00000-of-00001.arrow:1", b)]
    with pytest.raises(DataError, match="both: a saved dataset with the splits train, test; name one with 'split'"):
        rows("both", split="dev")
    with pytest.raises(DataError, match="has 'split', and files have none"):
        rows("one", split="test")
    (folder / "one" / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"one: not a complete saved dataset: KeyError"):
        rows("one")


def test_a_file_of_arrow(folder):
    table = pyarrow.table({"input": ["a", None]})
    with pyarrow.ipc.new_file(folder / "t.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=1)
    assert rows("t.arrow") == [("t.arrow:1", {"input": "a"}), ("t.arrow:2", {})]


SESSIONS = [
    [{"type": "session", "version": 3, "id": "s"}, {"type": "message", "id": "1"}],
    [{"timestamp": "t", "type": "session_meta", "payload": {}}, {"type": "response_item"}],
    [{"type": "summary", "leafUuid": "1"}, {"parentUuid": None, "type": "user"}],
    [{"parentUuid": None, "sessionId": "s", "type": "user", "message": {}}, {"type": "assistant"}],
    [{"type": "file-history-snapshot", "messageId": "1", "snapshot": {}}, {"type": "user"}],
]


@pytest.mark.parametrize("events", SESSIONS)
@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_a_session_of_an_agent_is_one_row(folder, events, name):
    content = ("\ufeff" + jsonl(*events)).encode()
    save(folder / name, gzip.compress(content) if name.endswith(".gz") else content)
    source = SourceRows(SourceConfig(name), Document({}))
    assert [(str(origin), row) for origin, row in source.decoded()] == [(f"{name}:1", {"traces": events})]
    assert source.line_ranges(9, 9) is None


@pytest.mark.parametrize("line", ['{"type": "chat", "sessionId": "s"}', '{"type": "session"}', '{"sessionId": "s"}'])
def test_rows_that_are_no_events(folder, line):
    save(folder / "t.jsonl", f"{line}\n{line}")
    assert len(rows("t.jsonl")) == 2


def test_a_damaged_event_is_named(folder):
    save(folder / "t.jsonl", jsonl(*SESSIONS[0]) + "\n{")
    [(_, bad)] = rows("t.jsonl")
    assert str(bad).startswith("line 3: not valid JSON")


def test_a_hub_data_set_offline_is_one_clear_line(folder, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as raised:
        rows("owner/name")
    assert re.fullmatch(
        r"data source owner/name: no such file here, and no hub dataset \(split 'train'\): .+",
        str(raised.value),
    )


@pytest.fixture
def hub(folder, monkeypatch):
    """A cache of hub datasets as an earlier download leaves it, with owner/name in it; its one subset is main."""
    import datasets

    table = [{"input": str(number), "output": "x", "system": None if number % 2 else "s"} for number in range(1500)]
    save(folder / "t.jsonl", jsonl(*table))
    with monkeypatch.context() as patch:
        patch.setattr("datasets.config.HF_HUB_OFFLINE", False)
        datasets.load_dataset("json", data_files={"test": str(folder / "t.jsonl")}, cache_dir=str(folder / "made"))
    [info] = (folder / "made").rglob("dataset_info.json")
    kept = folder / "cache" / "owner___name" / "main" / "0.0.0" / info.parent.name
    kept.mkdir(parents=True)
    (kept / "dataset_info.json").write_text(
        json.dumps(json.loads(info.read_text()) | {"config_name": "main", "dataset_name": "name"})
    )
    (kept / "name-test.arrow").write_bytes((info.parent / "json-test.arrow").read_bytes())
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(folder / "cache"))


@pytest.mark.parametrize("subset", [None, "main"])
def test_a_hub_data_set(hub, subset):
    found = rows("owner/name", split="test", subset=subset)
    assert [place for place, _ in found] == [f"owner/name:{number}" for number in range(1, 1501)]
    assert [row for _, row in found[:2]] == [
        {"input": "0", "output": "x", "system": "s"},
        {"input": "1", "output": "x"},
    ]
    assert found[-1][1]["input"] == "1499"


def test_a_hub_data_set_of_another_subset(hub):
    with pytest.raises(DataError, match=r"^data source owner/name: .* \(subset 'other', split 'test'\): "):
        rows("owner/name", split="test", subset="other")


def test_globs_and_folders_are_sorted(folder):
    for name in ("d/b.jsonl", "d/a.jsonl", "d/c.json", "d/note.txt", "d/e/f.jsonl"):
        save(folder / name, json.dumps([A]) if name.endswith("json") else jsonl(A))

    def names(path):
        return [str(file.relative_to(folder)) for file in find_files(SourceConfig(str(path)), Document({}))]

    for name in ("._a.jsonl", ".b.jsonl", ".ipynb_checkpoints/a.jsonl", "dataset_info.json"):
        save(folder / "d" / name, "{}")
    assert names(folder / "d/*.jsonl") == ["d/a.jsonl", "d/b.jsonl"]
    assert names(folder / "d/**/*.jsonl") == ["d/a.jsonl", "d/b.jsonl", "d/e/f.jsonl"]
    assert names(folder / "d/[bc].*") == ["d/b.jsonl", "d/c.json"]
    assert names(folder / "d") == ["d/a.jsonl", "d/b.jsonl", "d/c.json"]
    assert [place[-11:] for place, _ in rows("d/*.jsonl")] == ["d/a.jsonl:1", "d/b.jsonl:1"]


PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def zstd(content):
    target = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(target, "zstd") as stream:
        stream.write(content)
    return target.getvalue().to_pybytes()


@pytest.mark.parametrize("pack", [*PACK, ".zst"])
@pytest.mark.parametrize(
    ("name", "content"),
    [("t.jsonl", jsonl(A, B)), ("t.json", json.dumps([A, B])), ("t.Csv", 'input,output\n"é 你","x\ny"\nb,')],
)
def test_compressed_files(folder, pack, name, content):
    compress = PACK.get(pack, zstd)
    half = len(content) // 2  # two streams in a row, as parallel compressors write them
    path = save(folder / (name + pack), compress(content[:half].encode()) + compress(content[half:].encode()))
    assert [row for _, row in rows(path)] == [A, B]
    assert rows(folder) == rows(path)
    plain = [place.replace(pack, "") for place, _ in rows(path)]
    path.rename(folder / "aside")
    assert [place for place, _ in rows(save(folder / name, content))] == plain


@pytest.mark.parametrize("pack", [*PACK, ".zst"])
@pytest.mark.parametrize("damage", [lambda packed: packed[: len(packed) // 2], lambda packed: b"no" + packed[2:]])
def test_a_damaged_file_ends_the_run(folder, pack, damage):
    lines = jsonl(*({"input": str(number * number)} for number in range(1000))).encode()
    save(folder / f"t.jsonl{pack}", damage(PACK.get(pack, zstd)(lines)))
    with pytest.raises(DataError, match=rf"^data source .*t.jsonl\{pack} (is damaged|cannot be read): "):
        rows(f"t.jsonl{pack}")


def test_parquet_is_not_compressed_as_a_whole(folder):
    save(folder / "t.parquet.gz", gzip.compress(b"x"))
    with pytest.raises(DataError, match=r"all but Parquet and Arrow also with .gz, .bz2, .xz, .zst after it"):
        rows("t.parquet.gz")


@pytest.mark.parametrize("limit", [1, 3, 99])
def test_the_limit_is_of_the_source_not_of_each_file(folder, limit):
    for name in "ab":
        save(folder / f"{name}.jsonl", "\n" + jsonl(A, B))
    assert rows("*.jsonl", limit=limit) == rows("*.jsonl")[:limit]


def test_what_lies_behind_the_limit_is_not_read(folder):
    save(folder / "t.csv", 'input,output\na,b\n"never ends')
    assert len(rows("t.csv", limit=1)) == 1


@pytest.mark.parametrize("path", ["t.jsonl", "*.jsonl"])
def test_a_path_may_be_relative_to_the_configuration(folder, path):
    save(folder / "configs" / "t.jsonl", jsonl(B))
    assert rows(path, folder / "configs") == [(f"{folder / 'configs' / 't.jsonl'}:1", B)]
    save(folder / "t.jsonl", jsonl(A))  # the working directory comes first
    assert [row for _, row in rows(path, folder / "configs")] == [A]


def test_a_folder_without_data_is_one_error(folder):
    save(folder / "some" / "notes.txt", "x")
    with pytest.raises(DataError, match=r"^data source some: the folder has no file that ends in \.jsonl, \.json, "):
        rows("some")
    save(folder / "some" / "data" / "a.jsonl", jsonl(A))
    with pytest.raises(DataError, match=r"; for those in its folders name some/\*\*/\*$"):
        rows("some/")


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress, gzip.compress])
def test_every_stream_of_a_compressed_file_is_read_or_the_file_is_damaged(folder, pack):
    """As pbzip2, `xz -T`, and `cat` of several files make them."""
    suffix = {bz2.compress: "bz2", lzma.compress: "xz", gzip.compress: "gz"}[pack]
    parts = [pack((jsonl({"input": str(number)}) + "\n").encode() * 3) for number in range(3)]
    path = save(folder / f"t.jsonl.{suffix}", b"".join(parts) + bytes(8))  # padded with zeros
    assert [row["input"] for _, row in rows(path)] == list("000111222")
    for at in (1, 2, len(parts[1]) // 2, len(parts[1]) - 5):
        second = bytearray(parts[1])
        second[at] ^= 0xFF
        save(path, parts[0] + bytes(second) + parts[2])
        with pytest.raises(DataError, match=f"t.jsonl.{suffix} (is damaged|cannot be read)"):
            rows(path)
    for content in (parts[0] + b"garbage", parts[0] + parts[1][:-9]):
        save(path, content)
        with pytest.raises(DataError, match=f"t.jsonl.{suffix} (is damaged|cannot be read)"):
            rows(path)


def test_a_file_with_several_names_is_read_once(folder, capsys):
    save(folder / "d/a.jsonl", jsonl(A))
    save(folder / "d/in/b.jsonl", jsonl(B))
    (folder / "d/self").symlink_to(".")
    (folder / "d/c.jsonl").symlink_to("a.jsonl")
    (folder / "d/e.jsonl").hardlink_to(folder / "d/a.jsonl")
    assert [place for place, _ in rows("d/**/*.jsonl")] == ["d/a.jsonl:1", "d/in/b.jsonl:1"]
    assert [place[-9:] for place, _ in rows(folder / "d")] == ["a.jsonl:1"]
    told = capsys.readouterr().err
    assert "d/c.jsonl is another name of d/a.jsonl, which is read once" in told
    assert told.count("d/e.jsonl is another name of d/a.jsonl, ") == 1


def test_equal_files_are_not_one_file(folder, capsys):
    for name in "ab":
        save(folder / f"{name}.jsonl", jsonl(A))
    assert len(rows("*.jsonl")) == 2
    assert "another name" not in capsys.readouterr().err
