"""The way of a row: source, conversation, labelled example, packed row, batch."""

from sftcore.data.collate import Collator
from sftcore.data.conversations import parse_sources
from sftcore.data.examples import Examples
from sftcore.data.labels import Summary
from sftcore.data.packing import PackedSet, Shuffled, join
from sftcore.data.prepare import Prepared, pack, prepare, unpacked
from sftcore.data.progress import Progress

__all__ = [
    "Collator",
    "Examples",
    "PackedSet",
    "Prepared",
    "Progress",
    "Shuffled",
    "Summary",
    "join",
    "pack",
    "parse_sources",
    "prepare",
    "unpacked",
]
