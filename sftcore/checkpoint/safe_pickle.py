"""Files of others in a checkpoint that are pickles: read as tensors and known plain classes, never as code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@contextmanager
def refused() -> Iterator[None]:
    """Make every ``torch.load`` inside read weights only, whatever it was told.

    What else may stand in such files is what ``torch.serialization.add_safe_globals`` was told of.
    """
    before = os.environ.get(_FORCED)
    os.environ[_FORCED] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCED]
        else:
            os.environ[_FORCED] = before
