"""The way of a row: source, conversation, labelled example, packed row, batch."""

from sftcore.data.collate import Collator
from sftcore.data.conversations import parse_sources
from sftcore.data.labels import Summary, label
from sftcore.data.packing import PackedSet, Shuffled, join
from sftcore.data.prepare import Prepared, Rows, check_rows, prepare

__all__ = [
    "Collator",
    "PackedSet",
    "Prepared",
    "Rows",
    "Shuffled",
    "Summary",
    "check_rows",
    "join",
    "label",
    "parse_sources",
    "prepare",
]
