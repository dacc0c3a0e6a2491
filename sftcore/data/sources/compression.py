"""Files as bytes, decompressed where their name says so."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import IO, Any, cast

from sftcore.core.errors import DataError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""Suffixes of compressed files, after the suffix of their content: ``rows.jsonl.gz``."""

DAMAGED = (EOFError, zlib.error, lzma.LZMAError)
"""What reading a damaged file raises, beside ``OSError``."""


def plain_suffix(path: Path) -> str:
    """The suffix of *path* for its content, without that of its compression."""
    return Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


def decompressed(path: Path, file: IO[bytes]) -> IO[bytes]:
    """The content of *file*, opened at *path*.

    Raises:
        OSError: it cannot be read.
        DataError: it is a ``.zst`` file, and this pyarrow has no zstd.
    """
    if path.suffix != ".zst":
        openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
        return cast("IO[bytes]", openers[path.suffix](file)) if path.suffix in openers else file
    import pyarrow

    if not pyarrow.Codec.is_available("zstd"):
        raise DataError(f"data source {path}: this build of pyarrow has no zstd; decompress the file first")
    return io.BufferedReader(pyarrow.input_stream(file, compression="zstd"))
