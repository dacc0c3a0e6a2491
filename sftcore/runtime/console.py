"""Lines on the terminal: status, warnings, and the numbers in them; on rank 0 only."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path


def is_main_process() -> bool:
    """Whether this process is rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def status(topic: str, text: str, all_ranks: bool = False) -> None:
    """Print a status line to standard error, on rank 0 or *all_ranks*: *topic*, aligned, and *text*."""
    if all_ranks or is_main_process():
        first, *rest = text.splitlines() or [""]
        print(
            "\n".join([f"{topic:>10}  {first}", *(f"{'':>10}  {line}" for line in rest)]), file=sys.stderr, flush=True
        )


def warn(text: str) -> None:
    """Print a warning as a line of status."""
    status("warning", text)


def count(number: int, noun: str) -> str:
    """*number* with its noun: ``1 row``, ``1,234 rows``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_bytes(number: int) -> str:
    """A *number* of bytes in a readable unit: ``1.5 MB``."""
    size, units = float(number), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] == "bytes" else f"{size:.1f} {units[0]}"


def first_line(error: BaseException) -> str:
    """The first line of the message of *error*, or the name of its class if it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


_FULL = 1_000_000
"""A file system with fewer free bytes counts as full."""


def write_error_reason(folder: Path, error: BaseException) -> str:
    """Why writing to *folder* failed, with the free space of the file system that refused it, if that is known.

    It may be another one: that of the file that *error* names, or of temporary files.
    """
    reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
    named = [Path(str(error.filename)).absolute().parent] if isinstance(error, OSError) and error.filename else []
    free: dict[Path, int] = {}
    for place in [*named, folder, *([] if named else [Path(tempfile.gettempdir())])]:
        with suppress(OSError):  # the folder itself is gone
            free.setdefault(place, shutil.disk_usage(place).free)
    if not free:
        return reason
    full = (
        named[0] if named and named[0] in free else min(free, key=lambda place: (free[place] >= _FULL, place != folder))
    )
    where = "there" if full == folder or folder in full.parents else f"in {full}"
    return f"{reason}; {format_bytes(free[full])} are free {where}"


def utc_now() -> str:
    """The time in UTC, ISO 8601, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
