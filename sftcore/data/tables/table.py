"""Labelled rows as Arrow: the columns of a table, how they are built, and reading them as numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from sftcore.core.types import IGNORE_INDEX
from sftcore.data.row_types import Example, Origin
from sftcore.labelling import LabelWarning

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

DIGEST = 16  # bytes of a digest
LABEL_WARNINGS = tuple(LabelWarning)  # a warning is stored as its position in these

SCHEMA = pa.schema(
    [
        ("file", pa.int32()),  # number of the file in the source, and the line in it
        ("line", pa.int64()),
        ("key", pa.binary(DIGEST)),  # of the content of the conversation
        ("digest", pa.binary(DIGEST)),  # of the tokens, their labels and weights
        ("too_long", pa.bool_()),  # whether an example was dropped for its length
        ("longest", pa.int32()),  # tokens of the longest example, before truncation
        ("lengths", pa.list_(pa.int32())),  # tokens of each example with a trained token
        ("trained_tokens", pa.list_(pa.int32())),  # trained tokens of each
        ("input_ids", pa.large_list(pa.int32())),  # the tokens of these examples, one after another
        ("trained", pa.large_list(pa.bool_())),  # whether the token is its own label; the others have none
        ("weights", pa.large_list(pa.float64())),  # of the tokens in the loss; null where each trained one weighs 1
        ("warnings", pa.list_(pa.struct([("warning", pa.int8()), ("times", pa.int32()), ("detail", pa.string())]))),
    ]
)
"""A table has a row for each that could be read and labelled, also if nothing of it is trained."""


def to_arrow(kind: pa.DataType, values: Any, offsets: ArrayLike | None = None) -> pa.Array:
    """*values* as an array of *kind*; of a list *kind*, the first has those from the first of *offsets* to the second.

    ``pyarrow.array`` would import pandas, which takes longer than labelling a thousand rows.
    """
    if offsets is not None:
        items = values if isinstance(values, pa.Array) else to_arrow(kind.value_type, values)
        if pa.types.is_large_list(kind):
            return pa.LargeListArray.from_arrays(to_arrow(pa.int64(), offsets), items)
        return pa.ListArray.from_arrays(to_arrow(pa.int32(), offsets), items)
    if kind == pa.binary(DIGEST):
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(b"".join(values))])
    if kind == pa.string():
        texts = [(value or "").encode() for value in values]
        valid = to_arrow(pa.bool_(), [value is not None for value in values]).buffers()[1]
        ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
        return pa.Array.from_buffers(kind, len(texts), [valid, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))])
    items = np.ascontiguousarray(values, kind.to_pandas_dtype())
    data = np.packbits(items, bitorder="little") if kind == pa.bool_() else items
    return pa.Array.from_buffers(kind, len(items), [None, pa.py_buffer(data)])


def flat_values(lists: Any) -> Any:
    """The values of all *lists*, an array of lists, one after another; ``flatten`` imports more than it does."""
    first, last = lists.offsets[0].as_py(), lists.offsets[-1].as_py()
    return lists.values.slice(first, last - first)


def _to_numpy(column: Any) -> NDArray[Any]:
    """The values of *column*; those of all its lists, one after another."""
    if column.type == pa.binary(DIGEST):
        return np.frombuffer(column.buffers()[1], f"V{DIGEST}", len(column), column.offset * DIGEST)
    values = flat_values(column) if pa.types.is_nested(column.type) else column
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _concatenated(parts: list[Any], dtype: str) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *parts]).astype(dtype, copy=False)


def _column(name: str, dtype: str = "i8") -> cached_property[NDArray[Any]]:
    """The values of a column of a table, read when it is first accessed."""
    return cached_property(lambda table: _concatenated([_to_numpy(batch[name]) for batch in table.batches], dtype))


@dataclass(frozen=True, eq=False)
class Table:
    """Labelled rows of one source, in order; those of *files* are mapped into memory, and read when they are used."""

    batches: Sequence[pa.RecordBatch]
    files: Sequence[Path] = ()

    # of each row, as SCHEMA describes them
    keys = _column("key", f"V{DIGEST}")
    digests = _column("digest", f"V{DIGEST}")
    file = _column("file")
    line = _column("line")
    longest = _column("longest")
    too_long = _column("too_long", "?")
    # of each example
    lengths = _column("lengths")
    trained_tokens = _column("trained_tokens")

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a copy in another process map the files itself, and not carry their content."""
        return (read_table, (self.files,)) if self.files else (Table, (self.batches,))

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self.batches)

    @cached_property
    def examples(self) -> Integers:
        """Number of examples of each row."""
        return _concatenated([np.diff(batch["lengths"].offsets.to_numpy()) for batch in self.batches], "i8")

    @cached_property
    def row_of(self) -> Integers:
        """Number of the row of each example."""
        return np.repeat(np.arange(len(self)), self.examples)

    @cached_property
    def largest_id(self) -> int:
        """The largest token id of all examples."""
        import pyarrow.compute

        largest = (pyarrow.compute.max(flat_values(batch["input_ids"])).as_py() for batch in self.batches)
        return max((number for number in largest if number is not None), default=0)

    @cached_property
    def weighted(self) -> bool:
        """Whether any trained token weighs other than 1."""
        return any(batch["weights"].null_count < batch.num_rows for batch in self.batches)

    @cached_property
    def warnings(self) -> pa.Table:
        """Warnings about rows: a table with the columns ``row``, ``warning``, ``times`` and ``detail``."""
        names = ["row", "warning", "times", "detail"]
        parts: list[Any] = []
        before = 0
        for batch in self.batches:
            column = batch["warnings"]
            counts = np.diff(column.offsets.to_numpy())
            if counts.any():
                rows = np.repeat(np.arange(before, before + len(counts)), counts)
                parts.append(pa.Table.from_arrays([pa.array(rows), *flat_values(column).flatten()], names))
            before += batch.num_rows
        types = [pa.int64(), *(field.type for field in SCHEMA.field("warnings").type.value_type)]
        return pa.concat_tables([pa.schema(zip(names, types, strict=True)).empty_table(), *parts])

    @cached_property
    def _places(self) -> tuple[Integers, Integers]:
        """For each example the number of its batch, and where its tokens start in it."""
        lengths = [flat_values(batch["lengths"]).to_numpy().astype(np.int64) for batch in self.batches]
        numbers = [np.full(len(part), number) for number, part in enumerate(lengths)]
        return _concatenated(numbers, "i8"), _concatenated([np.cumsum(part) - part for part in lengths], "i8")

    def example(self, number: int, origins: Sequence[Origin] = ()) -> Example:
        """The example of this *number*, with its row's *origins*."""
        batches, starts = self._places
        batch, start, length = self.batches[batches[number]], starts[number], self.lengths[number]
        ids, trained, weights = (batch[name] for name in ("input_ids", "trained", "weights"))
        input_ids = flat_values(ids).slice(start, length).to_numpy()
        mask = flat_values(trained).slice(start, length).to_numpy(zero_copy_only=False)
        return Example(
            input_ids,
            np.where(mask, input_ids, np.int32(IGNORE_INDEX)),
            (int(length),),
            origins,
            flat_values(weights).slice(start, length).to_numpy() if weights.null_count == 0 else None,
        )


def read_table(files: Sequence[Path]) -> Table:
    """The rows of *files*, mapped into memory."""
    batches: list[pa.RecordBatch] = []
    for path in files:
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            batches += [reader.get_batch(number) for number in range(reader.num_record_batches)]
    return Table(batches, files)
