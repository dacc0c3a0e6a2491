"""How much of random testing runs: ``SFTCORE_TESTS`` is ``fast`` (the default), ``full`` or ``thorough``.

Each size draws the same examples every time, but ``thorough``: that draws others each time, and prints the seed, which
``SFTCORE_SEED`` sets.
"""

from __future__ import annotations

import os
import random

from hypothesis import HealthCheck, settings

SIZE = os.environ.get("SFTCORE_TESTS", "fast")
SCALE = {"fast": 0.25, "full": 1.0, "thorough": 12.0}[SIZE]
SEED = int(os.environ.get("SFTCORE_SEED") or (random.randrange(2**32) if SIZE == "thorough" else 0))


def scaled(number: int) -> int:
    """Number of random cases in a run of this size, of *number* in a full one."""
    return max(3, round(number * SCALE))


def examples(number: int) -> settings:
    """Settings of hypothesis for *number* examples in a full run."""
    return settings(
        max_examples=scaled(number),
        deadline=None,
        derandomize=SIZE != "thorough",
        database=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def generator(name: str) -> random.Random:
    """A random number generator that depends on *name* and the seed; pytest shows the seed where a test fails."""
    print(f"random choices of {name!r}: SFTCORE_SEED={SEED}")
    return random.Random(f"{name} {SEED}")
