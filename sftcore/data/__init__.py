"""The way of a row: source, conversation, labelled example, packed row, batch."""

from sftcore.data.batching.collator import Collator
from sftcore.data.batching.packing import PackedSet, join
from sftcore.data.batching.padded_sampler import Even, Evened, shuffled
from sftcore.data.preparation.pipeline import Prepared, pack, prepare, unpacked
from sftcore.data.preparation.progress import Progress
from sftcore.data.sources.formats import parse_sources
from sftcore.data.streaming.setup import ended, prepare_stream
from sftcore.data.streaming.shuffle_window import Order
from sftcore.data.streaming.stream import Stream
from sftcore.data.tables.examples import Examples
from sftcore.data.tables.summary import Summary

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
