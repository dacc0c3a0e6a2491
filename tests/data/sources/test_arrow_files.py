"""Parquet and Arrow: values that are not text, names that appear twice."""

from __future__ import annotations

import struct

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from sftcore.core.errors import DataError
from sftcore.data.row_types import UnreadableError

from .test_source_rows import folder, rows  # noqa: F401


def texts(*values):
    """Return a column of *values*, bytes that nobody checks."""
    ends = [sum(map(len, values[:number])) for number in range(len(values) + 1)]
    offsets = pyarrow.py_buffer(struct.pack(f"<{len(ends)}i", *ends))
    return pyarrow.StringArray.from_buffers(len(values), offsets, pyarrow.py_buffer(b"".join(values)))


def save(path, table):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        with pyarrow.ipc.new_file(str(path), table.schema) as file:
            file.write_table(table)


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_a_row_with_bytes_that_are_not_utf8_is_named(folder, name):  # noqa: F811
    good = pyarrow.array(["a", "b", "c"])
    save(folder / name, pyarrow.table({"input": texts(b"q", b"w\xff", b"e"), "output": good}))
    (_, first), (place, second), (_, third) = rows(name)
    assert first == {"input": "q", "output": "a"}
    assert third == {"input": "e", "output": "c"}
    assert place.endswith(f"{name}:2")
    assert isinstance(second, UnreadableError)
    assert str(second) == "the column 'input' is not valid UTF-8"
    assert second.row == {"input": "w\\xff", "output": "b"}


def test_bytes_within_a_list_of_objects(folder):  # noqa: F811
    inner = pyarrow.StructArray.from_arrays([texts(b"user", b"us\xe9r"), texts(b"a", b"b")], ["role", "content"])
    save(folder / "t.parquet", pyarrow.table({"messages": pyarrow.ListArray.from_arrays([0, 1, 2], inner)}))
    (_, first), (_, second) = rows("t.parquet")
    assert first == {"messages": [{"role": "user", "content": "a"}]}
    assert str(second) == "the column 'messages' is not valid UTF-8"


def test_a_value_that_python_does_not_have(folder):  # noqa: F811
    far = pyarrow.array([0, 1 << 60], pyarrow.timestamp("s"))
    save(folder / "t.arrow", pyarrow.table({"input": ["a", "b"], "when": far}))
    (_, first), (_, second) = rows("t.arrow")
    assert first["input"] == "a"
    assert str(second).startswith("the column 'when' is not readable: ")


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_a_column_that_is_there_twice(folder, name):  # noqa: F811
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, ["input", "output", "input"])
    save(folder / name, table)
    with pytest.raises(DataError, match=rf"{name}: has the column 'input' twice"):
        rows(name)


def test_a_field_that_is_there_twice(folder):  # noqa: F811
    inner = pyarrow.StructArray.from_arrays([pyarrow.array(["user"])] * 2, ["role", "role"])
    save(folder / "t.arrow", pyarrow.table({"messages": pyarrow.ListArray.from_arrays([0, 1], inner)}))
    with pytest.raises(DataError, match="has the field of 'messages' 'role' twice"):
        rows("t.arrow")
