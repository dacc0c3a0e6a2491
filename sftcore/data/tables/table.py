"""Labelled rows as Arrow: the columns of a table, and reading them as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sftcore.core.types import IGNORE_INDEX
from sftcore.labelling import LabelWarning

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

DIGEST = 16
"""Bytes of a digest."""

LABEL_WARNINGS = tuple(LabelWarning)
"""A warning is stored as its position in these."""

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


def flat_values(lists: Any) -> Any:
    """The values of all *lists*, an array of lists, one after another; ``flatten`` imports more than it does."""
    first, last = lists.offsets[0].as_py(), lists.offsets[-1].as_py()
    return lists.values.slice(first, last - first)


class ExampleTokens(NamedTuple):
    """The tokens of one example; ``weights`` as in :class:`~sftcore.core.types.Example`."""

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    weights: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class Table:
    """Labelled rows of one source, in order.

    Attributes:
        batches: the rows; those of files are mapped into memory, and read when they are used.
        files: the Arrow files, if they are in files.
    """

    batches: Sequence[pa.RecordBatch]
    files: Sequence[Path] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a copy in another process map the files itself, and not carry their content."""
        return (read_table, (self.files,)) if self.files else (Table, (self.batches,))

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self.batches)

    def _concatenated(self, parts: list[Any], dtype: str) -> NDArray[Any]:
        return np.concatenate([np.empty(0, dtype), *parts]).astype(dtype, copy=False)

    def _numbers(self, name: str, dtype: str) -> NDArray[Any]:
        return self._concatenated([batch.column(name).to_numpy(zero_copy_only=False) for batch in self.batches], dtype)

    def _items(self, name: str) -> Integers:
        """The values of all lists in a column, one after another."""
        return self._concatenated([flat_values(batch.column(name)).to_numpy() for batch in self.batches], "i8")

    def _digests(self, name: str) -> NDArray[np.void]:
        columns = [batch.column(name) for batch in self.batches]
        dtype = f"V{DIGEST}"
        return self._concatenated(
            [np.frombuffer(column.buffers()[1], dtype, len(column), column.offset * DIGEST) for column in columns],
            dtype,
        )

    @cached_property
    def keys(self) -> NDArray[np.void]:
        """Key of the content of each row."""
        return self._digests("key")

    @cached_property
    def digests(self) -> NDArray[np.void]:
        """Digest of the labelled tokens of each row."""
        return self._digests("digest")

    @cached_property
    def file(self) -> Integers:
        """Number of the file of each row."""
        return self._numbers("file", "i8")

    @cached_property
    def line(self) -> Integers:
        """Line of each row in its file, from 1."""
        return self._numbers("line", "i8")

    @cached_property
    def longest(self) -> Integers:
        """Tokens of the longest example of each row, before truncation."""
        return self._numbers("longest", "i8")

    @cached_property
    def too_long(self) -> Flags:
        """For each row, whether an example was dropped for its length."""
        return self._numbers("too_long", "?")

    @cached_property
    def examples(self) -> Integers:
        """Number of examples of each row."""
        return self._concatenated([np.diff(batch.column("lengths").offsets.to_numpy()) for batch in self.batches], "i8")

    @cached_property
    def first_example(self) -> Integers:
        """Number of the first example of each row."""
        return np.cumsum(self.examples) - self.examples

    @cached_property
    def row_of(self) -> Integers:
        """Number of the row of each example."""
        return np.repeat(np.arange(len(self)), self.examples)

    @cached_property
    def lengths(self) -> Integers:
        """Tokens of each example."""
        return self._items("lengths")

    @cached_property
    def trained_tokens(self) -> Integers:
        """Trained tokens of each example."""
        return self._items("trained_tokens")

    @cached_property
    def weighted(self) -> bool:
        """Whether any trained token weighs other than 1."""
        return any(batch.column("weights").null_count < batch.num_rows for batch in self.batches)

    @cached_property
    def warnings(self) -> pa.Table:
        """Warnings about rows: a table with the columns ``row``, ``warning``, ``times`` and ``detail``."""
        names = ["row", "warning", "times", "detail"]
        parts: list[Any] = []
        before = 0
        for batch in self.batches:
            column = batch.column("warnings")
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
        lengths = [flat_values(batch.column("lengths")).to_numpy().astype(np.int64) for batch in self.batches]
        numbers = [np.full(len(part), number) for number, part in enumerate(lengths)]
        return self._concatenated(numbers, "i8"), self._concatenated([np.cumsum(part) - part for part in lengths], "i8")

    def tokens(self, example: int) -> ExampleTokens:
        """The tokens of the example of this number."""
        batches, starts = self._places
        batch, start, length = self.batches[batches[example]], starts[example], self.lengths[example]
        ids, trained, weights = (batch.column(name) for name in ("input_ids", "trained", "weights"))
        input_ids = flat_values(ids).slice(start, length).to_numpy()
        mask = flat_values(trained).slice(start, length).to_numpy(zero_copy_only=False)
        return ExampleTokens(
            input_ids,
            np.where(mask, input_ids, np.int32(IGNORE_INDEX)),
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
