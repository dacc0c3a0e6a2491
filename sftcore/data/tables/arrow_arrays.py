"""Arrow arrays by their buffers: ``pyarrow.array`` imports pandas, which takes longer than to label a thousand rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from sftcore.data.tables.table import DIGEST


def numbers(values: ArrayLike, kind: pa.DataType) -> pa.Array:
    """Return *values* as an array of the *kind*, which is of numbers."""
    found = np.ascontiguousarray(values, kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(found), [None, pa.py_buffer(found)])


def flags(values: ArrayLike) -> pa.Array:
    """Return *values* as an array of booleans."""
    found = np.asarray(values, bool)
    return pa.Array.from_buffers(pa.bool_(), len(found), [None, pa.py_buffer(np.packbits(found, bitorder="little"))])


def digests(values: Sequence[bytes]) -> pa.Array:
    """Return *values*, each of ``DIGEST`` bytes, as an array."""
    return pa.Array.from_buffers(pa.binary(DIGEST), len(values), [None, pa.py_buffer(b"".join(values))])


def strings(values: Sequence[str | None]) -> pa.Array:
    """Return *values* as an array of texts, of which some may be missing."""
    texts = [(value or "").encode() for value in values]
    valid = flags([value is not None for value in values]).buffers()[1]
    ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(texts), [valid, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))])


def lists(borders: ArrayLike, values: pa.Array) -> pa.Array:
    """Return lists of *values*: the first has those from the first of *borders* to before the second."""
    return pa.ListArray.from_arrays(numbers(borders, pa.int32()), values)


def large_lists(borders: ArrayLike, values: pa.Array) -> pa.Array:
    """Return what :func:`lists` does, of any number of values."""
    return pa.LargeListArray.from_arrays(numbers(borders, pa.int64()), values)
