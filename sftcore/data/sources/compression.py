"""Files as bytes, compressed or not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import IO, cast

from sftcore.core.errors import DataError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""Endings of compressed files, after the ending that says what is in them: ``rows.jsonl.gz``."""

DAMAGED = (EOFError, zlib.error, lzma.LZMAError)
"""What reading a damaged file raises, beside ``OSError``."""


def plain_suffix(path: Path) -> str:
    """Return the ending of *path* that says what is in it, without the one of its compression."""
    return Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


def unpacked(path: Path, file: IO[bytes]) -> IO[bytes]:
    """Return what is in *file*, opened at *path*, de-compressed if its name says that it is compressed.

    Raises:
        OSError: it cannot be read.
        DataError: it is a ``.zst`` file, and this pyarrow cannot read one.
    """
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(file))
    if path.suffix == ".bz2":
        return bz2.open(file)
    if path.suffix == ".xz":
        return lzma.open(file)
    if path.suffix == ".zst":
        return _unpacked_zstd(path, file)
    return file


def _unpacked_zstd(path: Path, file: IO[bytes]) -> IO[bytes]:
    import pyarrow

    if not pyarrow.Codec.is_available("zstd"):
        raise DataError(f"data source {path}: this build of pyarrow has no zstd; unpack the file first")
    return io.BufferedReader(pyarrow.input_stream(file, compression="zstd"))
