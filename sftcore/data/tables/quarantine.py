"""``quarantine.jsonl``: every refused row, with its place and the reason."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

FILE = "quarantine.jsonl"


def write(folder: Path, lines: Iterable[str]) -> tuple[Path, int] | None:
    """Write *lines* into *folder*; return the file and their number, or None, and write no file, if there are none."""
    path, number = folder / FILE, 0
    for number, line in enumerate(lines, start=1):
        if number == 1:
            file = path.open("w", encoding="utf-8")
        file.write(line)
    if not number:
        path.unlink(missing_ok=True)  # that of an earlier run
        return None
    file.close()
    return path, number
