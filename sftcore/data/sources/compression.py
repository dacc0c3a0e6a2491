"""Files as they are on the disk: compressed or not, in UTF-8 or in another encoding."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from sftcore.core.errors import DataError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""Suffixes of compressed files, after the suffix of their content: ``rows.jsonl.gz``."""

DAMAGED = (EOFError, zlib.error, lzma.LZMAError)  # what reading a damaged file raises, beside ``OSError``


_CHUNK = 1 << 16  # bytes that are decompressed at a time

_WIDE = {
    "UTF-32": rb"\xff\xfe\0\0|\0\0\xfe\xff",
    "UTF-32LE": rb".\0\0\0",
    "UTF-32BE": rb"\0\0\0.",
    "UTF-16": rb"\xff\xfe|\xfe\xff",
    "UTF-16LE": rb".\0",
    "UTF-16BE": rb"\0.",
}
"""How a text begins in encodings with several bytes per letter, as patterns by their names."""


def suffixes(path: Path) -> tuple[str, str]:
    """The suffix of *path* for its content, and that of its compression or ''; in lower case."""
    suffix = path.suffix.lower()
    return (Path(path.stem).suffix.lower(), suffix) if suffix in COMPRESSED else (suffix, "")


def decompressed(path: Path, file: IO[bytes]) -> IO[bytes]:
    """The content of *file*, opened at *path*, which is text.

    Raises:
        DataError: it is UTF-16 or UTF-32; or it is a ``.zst`` file and this pyarrow has no zstd.
    """
    stream: Any = _decompressed(path, file)
    begin = stream.peek(4)
    for encoding, pattern in _WIDE.items():
        if re.match(pattern, begin, re.DOTALL):
            problem = f"is {encoding}, and must be UTF-8; convert it: iconv -f {encoding} -t UTF-8 {path.name} > NEW"
            raise DataError(f"data source {path}: {problem}")
    return cast("IO[bytes]", stream)


def _decompressed(path: Path, file: IO[bytes]) -> Any:
    compression = suffixes(path)[1]
    if compression and not path.stat().st_size:
        raise EOFError("it is empty, which no compressed file is")
    if compression != ".zst":
        if compression == ".gz":
            return gzip.open(file)
        new = {".bz2": bz2.BZ2Decompressor, ".xz": lzma.LZMADecompressor}.get(compression)
        return io.BufferedReader(_Streams(file, new)) if new else file
    import pyarrow

    if not pyarrow.Codec.is_available("zstd"):
        raise DataError(f"data source {path}: this build of pyarrow has no zstd; decompress the file first")
    return io.BufferedReader(pyarrow.input_stream(file, compression="zstd"))


class _Streams(io.RawIOBase):
    """The content of all compressed streams in *file*, each read by a *new* decompressor.

    Python's own readers take a damaged head of a later stream for the end of the file.
    """

    def __init__(self, file: IO[bytes], new: Callable[[], Any]) -> None:
        self._file, self._new, self._stream = file, new, new()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill *buffer*; raise EOFError, OSError or LZMAError where the file is damaged."""
        while True:
            if not self._stream.eof:
                data = self._file.read(_CHUNK) if self._stream.needs_input else b""
                if self._stream.needs_input and not data:
                    raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            else:
                data = self._stream.unused_data
                while not (data := data.lstrip(b"\0")) and (more := self._file.read(_CHUNK)):  # padding
                    data = more
                if not data:
                    return 0
                self._stream = self._new()
            if content := self._stream.decompress(data, len(buffer)):
                buffer[: len(content)] = content
                return len(content)
