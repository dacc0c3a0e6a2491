"""Compressed files: a damaged one is never read as one that ends earlier."""

from __future__ import annotations

import bz2
import gzip
import lzma

import pytest

from sftcore.core.errors import DataError
from sftcore.data.sources.compression import decompressed

from .test_source_rows import folder, rows, save, zstd  # noqa: F401

PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}
LINES = [b'{"input": "%d", "output": "x"}\n' % number for number in range(30)]


def streams(suffix):
    return [PACK[suffix](b"".join(LINES[start : start + 10])) for start in (0, 10, 20)]


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("suffix", PACK)
def test_all_streams_are_read(folder, suffix):  # noqa: F811
    save(folder / f"t.jsonl{suffix}", b"".join(streams(suffix)))
    assert len(rows(f"t.jsonl{suffix}")) == 30


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_zeros_after_a_stream_and_an_empty_stream_are_no_damage(folder, suffix):  # noqa: F811
    first, second, third = streams(suffix)
    save(folder / f"t.jsonl{suffix}", first + bytes(8) + second + PACK[suffix](b"") + third + bytes(20_000))
    assert len(rows(f"t.jsonl{suffix}")) == 30


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize(
    "damage",
    [
        lambda first, second, third: first + flipped(second, 1) + third,
        lambda first, second, third: first + second[:-9] + third,
        lambda first, second, third: first + second + third[:-4],
        lambda first, second, third: first + second[:3],
        lambda first, second, third: first + second + b"trailing text",
        lambda first, second, third: first + b"x" + second,
        lambda first, second, third: b"",
    ],
    ids=["head of the second", "end of the second", "end of the last", "torn head", "garbage", "between", "empty"],
)
def test_damage_anywhere_ends_the_run(folder, suffix, damage):  # noqa: F811
    save(folder / f"t.jsonl{suffix}", damage(*streams(suffix)))
    with pytest.raises(DataError, match=rf"^data source .*t.jsonl\{suffix} (is damaged|cannot be read): "):
        rows(f"t.jsonl{suffix}")


def test_a_large_stream_is_read_in_parts(folder):  # noqa: F811
    many = b"".join(LINES) * 2_000
    for suffix in (".bz2", ".xz"):
        save(folder / f"t.jsonl{suffix}", PACK[suffix](many[: len(many) // 2]) + PACK[suffix](many[len(many) // 2 :]))
        with (folder / f"t.jsonl{suffix}").open("rb") as file:
            assert decompressed(folder / f"t.jsonl{suffix}", file).read() == many
