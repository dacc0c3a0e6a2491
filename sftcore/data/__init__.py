"""The way of a row: source, conversation, labelled example, packed row, batch."""

from sftcore.data.batching.collator import Collator
from sftcore.data.batching.packing import PackedSet, join
from sftcore.data.batching.padded_sampler import MapStyleSet
from sftcore.data.preparation.pipeline import Prepared, pack, prepare
from sftcore.data.preparation.progress import Progress
from sftcore.data.sources.formats import parse_sources
from sftcore.data.streaming.setup import prepare_stream
from sftcore.data.tables.examples import Examples
from sftcore.data.tables.summary import Summary
from sftcore.data.training_set import RowOrder, TrainingSet

__all__ = [
    "Collator",
    "Examples",
    "MapStyleSet",
    "PackedSet",
    "Prepared",
    "Progress",
    "RowOrder",
    "Summary",
    "TrainingSet",
    "join",
    "pack",
    "parse_sources",
    "prepare",
    "prepare_stream",
]
