"""``quarantine.jsonl``: every refused row, with its place and the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from sftcore.config import DataConfig
from sftcore.data.refusals import Refusal
from sftcore.data.sources import read
from sftcore.document import Document

FILE = "quarantine.jsonl"


def write(folder: Path, refused: Sequence[Refusal], config: DataConfig, document: Document) -> Path | None:
    """Write the *refused* rows into *folder*, and return the file; None, and no file, if there are none."""
    if not refused:
        return None
    path = folder / FILE
    with path.open("w", encoding="utf-8") as lines:
        for refusal in _whole(refused, config, document):
            lines.write(f"{refusal.line()}\n")
    return path


def _whole(refused: Sequence[Refusal], config: DataConfig, document: Document) -> Iterator[Refusal]:
    """Yield *refused*, with what is in them: rows refused by their labels are read a second time, none was kept."""
    without = {refusal.origin for refusal in refused if refusal.row is None and refusal.raw is None}
    found = {}
    if without:
        sources = (*config.train, *(config.eval if isinstance(config.eval, list) else ()))
        for origin, row in chain.from_iterable(read(source, document) for source in sources):
            if origin in without:
                found[origin] = row
                if len(found) == len(without):
                    break
    for refusal in refused:
        yield refusal._replace(row=found[refusal.origin]) if refusal.origin in found else refusal
