"""``quarantine.jsonl``: every rejected row, with its origin and the reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sftcore.data.sources.rejected import to_json

FILE = "quarantine.jsonl"


def to_quarantine_line(text: str, names: Sequence[str]) -> str:
    """A line of ``LabelledBlock.rejected`` as one of the file, with the *names* of the source's files."""
    file, line, content = text.split(" ", 2)
    return f'{{"source": {to_json(f"{names[int(file)]}:{line}")}, {content[1:]}'


def write_quarantine(folder: Path, lines: Iterable[str]) -> tuple[Path, int] | None:
    """Write *lines* into *folder*: the path of the file and their number, or None, and no file, if there are none."""
    path, number = folder / FILE, 0
    for number, line in enumerate(lines, start=1):
        if number == 1:
            file = path.open("w", encoding="utf-8")
        file.write(line)
    if not number:
        path.unlink(missing_ok=True)  # of an earlier run
        return None
    file.close()
    return path, number
