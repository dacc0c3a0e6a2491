"""Labelled rows as Arrow: what the columns of a table hold, and reading them as numbers."""

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
"""A warning is stored as its place among these."""

SCHEMA = pa.schema(
    [
        ("file", pa.int32()),  # which file of the source the row stands in, and where
        ("line", pa.int64()),
        ("key", pa.binary(DIGEST)),  # of what the conversation says: rows of one content have one
        ("digest", pa.binary(DIGEST)),  # of the tokens, and of what is trained among them
        ("too_long", pa.bool_()),  # whether an example was left out for its length
        ("longest", pa.int32()),  # tokens of the longest example, before any was made to fit
        ("lengths", pa.list_(pa.int32())),  # tokens of each example of which any is trained
        ("trained_tokens", pa.list_(pa.int32())),  # how many of them are trained
        ("input_ids", pa.large_list(pa.int32())),  # the tokens of these examples, one after another
        ("trained", pa.large_list(pa.bool_())),  # whether the token is its own label; the others have none
        ("weights", pa.large_list(pa.float64())),  # what it weighs in the loss; null where each trained one weighs 1
        ("warnings", pa.list_(pa.struct([("warning", pa.int8()), ("times", pa.int32()), ("detail", pa.string())]))),
    ]
)
"""A table has one row for each that could be read and labelled, also if nothing of it is trained."""


def inner(lists: Any) -> Any:
    """Return what all of *lists*, an array of lists, hold, one after another; ``flatten`` imports more than it does."""
    first, last = lists.offsets[0].as_py(), lists.offsets[-1].as_py()
    return lists.values.slice(first, last - first)


class Tokens(NamedTuple):
    """The tokens of one example; ``weights`` as in :class:`~sftcore.core.types.Example`."""

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    weights: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class Table:
    """Labelled rows of one source, in order.

    Attributes:
        batches: the rows as Arrow has them; those of files are mapped into memory, and read when they are used.
        files: where they are from, if they are.
    """

    batches: Sequence[pa.RecordBatch]
    files: Sequence[Path] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a copy in another process map the files anew, and not carry what they hold."""
        return (read_table, (self.files,)) if self.files else (Table, (self.batches,))

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self.batches)

    def _joined(self, parts: list[Any], dtype: str) -> NDArray[Any]:
        return np.concatenate([np.empty(0, dtype), *parts]).astype(dtype, copy=False)

    def _numbers(self, name: str, dtype: str) -> NDArray[Any]:
        return self._joined([batch.column(name).to_numpy(zero_copy_only=False) for batch in self.batches], dtype)

    def _items(self, name: str) -> Integers:
        """Return what all lists in a column hold, one after another."""
        return self._joined([inner(batch.column(name)).to_numpy() for batch in self.batches], "i8")

    def _digests(self, name: str) -> NDArray[np.void]:
        columns = [batch.column(name) for batch in self.batches]
        dtype = f"V{DIGEST}"
        return self._joined(
            [np.frombuffer(column.buffers()[1], dtype, len(column), column.offset * DIGEST) for column in columns],
            dtype,
        )

    @cached_property
    def keys(self) -> NDArray[np.void]:
        """Of each row the key of its content."""
        return self._digests("key")

    @cached_property
    def digests(self) -> NDArray[np.void]:
        """Of each row the digest of its labelled tokens."""
        return self._digests("digest")

    @cached_property
    def file(self) -> Integers:
        """Of each row the number of its file."""
        return self._numbers("file", "i8")

    @cached_property
    def line(self) -> Integers:
        """Of each row its place in the file, from 1."""
        return self._numbers("line", "i8")

    @cached_property
    def longest(self) -> Integers:
        """Of each row the tokens of its longest example, before any was made to fit."""
        return self._numbers("longest", "i8")

    @cached_property
    def too_long(self) -> Flags:
        """Of each row whether an example of it was left out for its length."""
        return self._numbers("too_long", "?")

    @cached_property
    def examples(self) -> Integers:
        """Of each row the number of its examples."""
        return self._joined([np.diff(batch.column("lengths").offsets.to_numpy()) for batch in self.batches], "i8")

    @cached_property
    def first_example(self) -> Integers:
        """Of each row the number of its first example."""
        return np.cumsum(self.examples) - self.examples

    @cached_property
    def row_of(self) -> Integers:
        """Of each example the number of its row."""
        return np.repeat(np.arange(len(self)), self.examples)

    @cached_property
    def lengths(self) -> Integers:
        """Of each example its tokens."""
        return self._items("lengths")

    @cached_property
    def trained_tokens(self) -> Integers:
        """Of each example the number of tokens that are trained."""
        return self._items("trained_tokens")

    @cached_property
    def weighted(self) -> bool:
        """Whether any trained token weighs other than 1."""
        return any(batch.column("weights").null_count < batch.num_rows for batch in self.batches)

    @cached_property
    def warnings(self) -> pa.Table:
        """The warnings on rows: a table with the columns ``row``, ``warning``, ``times`` and ``detail``."""
        names = ["row", "warning", "times", "detail"]
        parts: list[Any] = []
        before = 0
        for batch in self.batches:
            column = batch.column("warnings")
            counts = np.diff(column.offsets.to_numpy())
            if counts.any():
                rows = np.repeat(np.arange(before, before + len(counts)), counts)
                parts.append(pa.Table.from_arrays([pa.array(rows), *inner(column).flatten()], names))
            before += batch.num_rows
        types = [pa.int64(), *(field.type for field in SCHEMA.field("warnings").type.value_type)]
        return pa.concat_tables([pa.schema(zip(names, types, strict=True)).empty_table(), *parts])

    @cached_property
    def _places(self) -> tuple[Integers, Integers]:
        """Of each example the number of its batch, and where its tokens begin there."""
        lengths = [inner(batch.column("lengths")).to_numpy().astype(np.int64) for batch in self.batches]
        numbers = [np.full(len(part), number) for number, part in enumerate(lengths)]
        return self._joined(numbers, "i8"), self._joined([np.cumsum(part) - part for part in lengths], "i8")

    def tokens(self, example: int) -> Tokens:
        """Return the tokens of the *example* of this number."""
        batches, starts = self._places
        batch, start, length = self.batches[batches[example]], starts[example], self.lengths[example]
        ids, trained, weights = (batch.column(name) for name in ("input_ids", "trained", "weights"))
        found = inner(ids).slice(start, length).to_numpy()
        mask = inner(trained).slice(start, length).to_numpy(zero_copy_only=False)
        return Tokens(
            found,
            np.where(mask, found, np.int32(IGNORE_INDEX)),
            inner(weights).slice(start, length).to_numpy() if weights.null_count == 0 else None,
        )


def read_table(files: Sequence[Path]) -> Table:
    """Return the rows of *files*, mapped into memory."""
    batches: list[pa.RecordBatch] = []
    for path in files:
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            batches += [reader.get_batch(number) for number in range(reader.num_record_batches)]
    return Table(batches, files)
