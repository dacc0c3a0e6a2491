"""What a run and its trainer know of the rows that are trained: in memory, packed, or streamed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from sftcore.data.batching.packing import PackedSet
    from sftcore.data.tables.account import Account
    from sftcore.data.tables.summary import Summary


class RowOrder(NamedTuple):
    """The order of the rows of an epoch: shuffled by *seed*, or as they come."""

    seed: int = 0
    sequential: bool = True


class Progress(NamedTuple):
    """How far a run has come.

    Attributes:
        steps: optimizer steps in the whole run.
        rows_per_step: rows that all ranks train in one.
        per_read: rows that all ranks read at a time; of an epoch only multiples of them are trained.
        untrained: numbers of the steps whose update was skipped.
        evaluated: of the rows to evaluate, how many were; None where there was no evaluation.
    """

    steps: int = 0
    rows_per_step: int = 1
    per_read: int = 1
    order: RowOrder = RowOrder()
    untrained: Set[int] = frozenset()
    evaluated: int | None = None


class StreamOutcome(NamedTuple):
    """The account of the rows of a stream; ``fingerprint`` is a SHA-256 over all that was trained."""

    account: Account
    summary: Summary
    fingerprint: str


class TrainingSet(ABC):
    """The rows that a run trains."""

    streaming: ClassVar[bool] = False  # whether rows are read while others are trained, and counted when the run ends

    @property
    @abstractmethod
    def weighted(self) -> bool | None:
        """Whether any trained token weighs other than 1; None if that cannot be known yet."""

    @property
    def packed(self) -> PackedSet | None:
        """The rows that several examples share, of a stream those of its first examples; None without packing."""
        return None

    @abstractmethod
    def to_dataset(self, pad_token_id: int, order: RowOrder, steps: int) -> Any:
        """The dataset that the Trainer gets for a run of this many optimizer *steps*; only a stream has to know these.

        It has ``weighted`` as this has, ``callbacks`` for the Trainer, and ``rows_per_step``, which is set to the rows
        that all ranks train in an optimizer step, and ``untrained``, to the numbers of steps whose update is skipped.
        """

    def start(self) -> None:  # noqa: B027  # only a stream has anything to start
        """Start reading; this forks processes, so it comes before anything that must not be copied into them."""

    def close(self) -> None:  # noqa: B027
        """Stop reading."""

    def save_rejected(self, path: Path) -> None:  # noqa: B027
        """Append the rows that are rejected from now on to the file *path*, as lines of ``quarantine.jsonl``."""

    def outcome(self) -> StreamOutcome | None:
        """The account of the rows of a stream; None where that was known before training began."""
        return None
