"""Where the spans and the turns of drafts begin and end, as numbers of texts and characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class Borders(NamedTuple):
    """Where the spans and the turns of one draft begin and end.

    A border is two numbers: how many texts stand before it, and how many other characters.

    Attributes:
        spans: int64, (spans, 2, 2): of each span its start and its end.
        weights: float64, (spans,).
        edges: int64, (turns, 2, 2): of each turn its start and its end.
    """

    spans: Integers
    weights: NDArray[np.float64]
    edges: Integers

    @classmethod
    def of(
        cls,
        spans: Sequence[tuple[tuple[int, int], tuple[int, int], float]],
        edges: Sequence[tuple[tuple[int, int], tuple[int, int]]],
    ) -> Borders:
        """Return these as arrays."""
        return cls(
            np.array([(start, end) for start, end, _ in spans], np.int64).reshape(-1, 2, 2),
            np.array([weight for _, _, weight in spans], np.float64),
            np.array(edges, np.int64).reshape(-1, 2, 2),
        )
