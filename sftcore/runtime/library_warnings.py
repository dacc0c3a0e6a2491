"""Warnings of libraries about what the user asked for: each is reported once, as a warning of the run."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from sftcore.runtime.console import warn

_LENGTH = 600
"""Characters of a warning that are shown."""

_FOR_PROGRAMMERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning, ResourceWarning)
"""Warnings about how a library is called, which is not the user's doing."""

_NOISE = re.compile(
    r"bitsandbytes: Failed to load CPU gemm"  # a faster kernel for 4-bit inference on CPUs
    r"|: Setting accelerator to CPU"  # of an engine that accelerate imports whatever the backend is
    r"|transformers: \S* LOAD REPORT|we will NOT tie them"  # models/base_model says both
    r"|The tokenizer has new PAD/BOS/EOS tokens"  # training/build sets them
    r"|peft: The following \w+_pattern keys"  # PEFT's own patterns; the user's are checked
)
"""Warnings about what sftcore does on purpose, and reports itself where it matters."""

_STYLE = re.compile(r"\x1b\[[0-9;]*m")

_reported: dict[str, str] = {}
_handle = logging.Logger.handle


def report_library_warnings() -> None:
    """Report the warnings of libraries from now on; what they log below a warning is not shown."""
    _reported.clear()
    logging.disable(logging.INFO)
    logging.Logger.handle = _handle_or_report  # type: ignore[method-assign]
    warnings.showwarning = _show_or_report
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def reported_warnings() -> list[str]:
    """The warnings of libraries in this process so far, also where a rank other than 0 does not print them."""
    return [*_reported.values()]


def report_other_ranks(by_rank: Sequence[Sequence[str]]) -> None:
    """Report the warnings that ranks other than 0 had and rank 0 had not; *by_rank* are :func:`reported_warnings`."""
    for rank, texts in enumerate(by_rank):
        for text in texts:
            if (key := _key(text)) not in _reported:
                _reported[key] = text
                warn(f"rank {rank}: {text}")


def _report(source: str, message: str) -> None:
    """Report *message* of the library *source*, unless it was; numbers in it make no difference."""
    text = f"{source}: {' '.join(_STYLE.sub('', message).split())}"
    if _NOISE.search(text) or (key := _key(text)) in _reported:
        return
    _reported[key] = text
    warn(text if len(text) <= _LENGTH else f"{text[:_LENGTH]}...")


def _key(text: str) -> str:
    return re.sub(r"\d+", "0", text)


def _handle_or_report(self: logging.Logger, record: logging.LogRecord) -> None:
    if record.levelno >= logging.ERROR:
        _handle(self, record)
    elif not self.disabled and self.filter(record):
        _report(record.name.partition(".")[0], record.getMessage())


def _show_or_report(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, _FOR_PROGRAMMERS):
        return
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__") in ("warnings", "_py_warnings"):
        frame = frame.f_back
    _report(str(frame.f_globals.get("__name__")).partition(".")[0], str(message))
