"""The place of a row in a source, a row that cannot be read, and the training example that was made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Origin(NamedTuple):
    """Where a row was read: the file (or hub id) and its line or row number, counted from 1."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True)
class Example:
    """One labelled training row; ``input_ids``, ``labels`` and ``weights`` have an item for each token."""

    input_ids: Sequence[int] | NDArray[np.int32]
    labels: Sequence[int] | NDArray[np.int32]  # the token, or IGNORE_INDEX where it is not trained
    lengths: Sequence[int]  # of its documents in tokens, in order: one, unless rows were packed
    origins: Sequence[Origin]
    weights: Sequence[float] | NDArray[np.float64] | None = None  # in the loss; None where each trained token weighs 1


class UnreadableError(ValueError):
    """In place of a row that could not be read: why, its text (bytes that are not UTF-8 escaped), or what was read."""

    def __init__(self, reason: str, raw: str | None = None, row: Any = None) -> None:
        super().__init__(reason)
        self.raw, self.row = raw, row
