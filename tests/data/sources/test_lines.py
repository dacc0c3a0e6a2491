"""Lines as places in a file: together they are the file, wherever they are divided."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sftcore.core.errors import DataError
from sftcore.data.sources.readers import LineRange, read_jsonl, split_lines

PIECES = [b"", b" \t ", b"{}", b"\r", b"\x0b{}\x0c", b"a b", "é你".encode(), b"\xff", b"x" * 300]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("most", "size"), [(1, 10**6), (3, 10**6), (10**6, 1), (10**6, 100), (7, 40)])
def test_line_ranges_of_a_file_are_the_file(tmp_path: Path, seed: int, most: int, size: int) -> None:
    chance = random.Random(seed)
    path = tmp_path / "rows.jsonl"
    lines = chance.choices(PIECES, k=chance.randint(0, 40))
    path.write_bytes(chance.choice([b"", b"\xef\xbb\xbf"]) + b"\n".join(lines) + chance.choice([b"", b"\n"]))
    with path.open("rb") as file:
        right = list(read_jsonl(path, file))
    with path.open("rb") as file:
        parts = list(split_lines(path, file, most, size))
    assert [row for part in parts for row in part] == right
    assert sum(part.size for part in parts) == path.stat().st_size
    assert all(0 < len(part) <= most for part in parts)
    assert all(part.size < size + 301 for part in parts)


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data source .*gone\.jsonl cannot be read"):
        list(LineRange(tmp_path / "gone.jsonl", 0, 1, 1, 1))
