"""Arrow arrays from buffers: ``pyarrow.array`` imports pandas, which takes longer than labelling a thousand rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from sftcore.data.tables.table import DIGEST


def number_array(values: ArrayLike, kind: pa.DataType) -> pa.Array:
    """*values* as an array of the numeric type *kind*."""
    numbers = np.ascontiguousarray(values, kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])


def bool_array(values: ArrayLike) -> pa.Array:
    """*values* as an array of booleans."""
    flags = np.asarray(values, bool)
    return pa.Array.from_buffers(pa.bool_(), len(flags), [None, pa.py_buffer(np.packbits(flags, bitorder="little"))])


def digest_array(values: Sequence[bytes]) -> pa.Array:
    """*values*, each of ``DIGEST`` bytes, as an array."""
    return pa.Array.from_buffers(pa.binary(DIGEST), len(values), [None, pa.py_buffer(b"".join(values))])


def string_array(values: Sequence[str | None]) -> pa.Array:
    """*values* as an array of texts with nulls."""
    texts = [(value or "").encode() for value in values]
    valid = bool_array([value is not None for value in values]).buffers()[1]
    ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(texts), [valid, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))])


def list_array(offsets: ArrayLike, values: pa.Array) -> pa.Array:
    """Lists of *values*: the first has those from the first of *offsets* to before the second."""
    return pa.ListArray.from_arrays(number_array(offsets, pa.int32()), values)


def large_list_array(offsets: ArrayLike, values: pa.Array) -> pa.Array:
    """Lists as :func:`list_array` makes them, of any number of values."""
    return pa.LargeListArray.from_arrays(number_array(offsets, pa.int64()), values)
