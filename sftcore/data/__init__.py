"""The way of a row: source, conversation, labelled example, packed row, batch."""

from sftcore.data.collate import Collator
from sftcore.data.conversations import parse_sources
from sftcore.data.evened import Even, Evened, shuffled
from sftcore.data.examples import Examples
from sftcore.data.labels import Summary
from sftcore.data.packing import PackedSet, join
from sftcore.data.prepare import Prepared, pack, prepare, unpacked
from sftcore.data.progress import Progress
from sftcore.data.stream import Stream
from sftcore.data.streaming import ended, prepare_stream
from sftcore.data.window import Order

__all__ = [
    "Collator",
    "Even",
    "Evened",
    "Examples",
    "Order",
    "PackedSet",
    "Prepared",
    "Progress",
    "Stream",
    "Summary",
    "ended",
    "join",
    "pack",
    "parse_sources",
    "prepare",
    "prepare_stream",
    "shuffled",
    "unpacked",
]
