"""From the sources of the configuration to the training and evaluation sets of a run, and their batches.

In: files and hub datasets, a labeller, the configuration. Out: a training set, an evaluation set, and batches.
Knows nothing of models, training or the command line.
"""

from sftcore.data.batching.collator import Collator
from sftcore.data.batching.packing import PackedSet, join
from sftcore.data.batching.padded_sampler import MapStyleSet
from sftcore.data.preparation.pipeline import Prepared, pack, prepare
from sftcore.data.preparation.progress import PreparationProgress
from sftcore.data.sources.formats import sample_sources
from sftcore.data.streaming.setup import prepare_stream
from sftcore.data.tables.examples import Examples
from sftcore.data.training_set import RowOrder

__all__ = [
    "Collator",
    "Examples",
    "MapStyleSet",
    "PackedSet",
    "PreparationProgress",
    "Prepared",
    "RowOrder",
    "join",
    "pack",
    "prepare",
    "prepare_stream",
    "sample_sources",
]
