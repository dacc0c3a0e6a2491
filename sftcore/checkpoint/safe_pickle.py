"""Pickles in a checkpoint (of other libraries): read as tensors and known plain classes, never as code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@contextmanager
def weights_only() -> Iterator[None]:
    """Make every ``torch.load`` in the context read weights only, whatever its arguments.

    Other classes in such files need ``torch.serialization.add_safe_globals``.
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
