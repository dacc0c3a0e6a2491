"""From the data section to a stream: its first rows are labelled, and all rows that are evaluated are prepared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from sftcore.config.loader import LoadedConfig
from sftcore.core.errors import DataError
from sftcore.core.registry import Registry
from sftcore.data.preparation.blocks import Block
from sftcore.data.preparation.pipeline import Prepared, beginnings, prepare
from sftcore.data.preparation.progress import PreparationProgress
from sftcore.data.preparation.source_cache import Cache
from sftcore.data.preparation.worker import LabelledBlock, label_block
from sftcore.data.selection.mixing import target_rows
from sftcore.data.sources.formats import open_source
from sftcore.data.sources.rejected import rejected_rows
from sftcore.data.streaming.interleave import ROWS, StreamSource, estimate_rows
from sftcore.data.streaming.stream import Stream
from sftcore.data.tables.account import BadRowLimit, rejected_at
from sftcore.data.tables.examples import SelectedRows
from sftcore.data.tables.summary import Summary, check_template, summarize
from sftcore.data.tables.table import Table
from sftcore.labelling import Labeller
from sftcore.runtime.console import count


def prepare_stream(
    loaded: LoadedConfig,
    registry: Registry,
    labeller: Labeller,
    progress: PreparationProgress | None = None,
    cache: Cache | None = None,
) -> Prepared:
    """A stream of the rows to train, whose first rows are sound, and the examples to evaluate.

    Raises:
        DataError: there are too many malformed rows among the first, or nothing of a source is trained.
        ConfigError: a source renames a column that no row has, or the chat template can label nothing.
        SftError: the evaluation rows cannot be cached.
    """
    config = loaded.config.data
    sources = _open_sources(loaded, registry)
    check_template((row for source in sources for row in source.source.parse_all()), labeller)
    first = _first_blocks(sources, loaded, labeller)
    sample, summary = summarize(
        [_all_rows(block, sources) for block in first],
        "train",
        labeller.tokenizer,
        lambda origins: list(beginnings(origins, loaded, registry)),
        sum(sum(block.totals.unlabelled.values()) for block in first),
    )
    eval_only = replace(loaded, config=replace(loaded.config, data=replace(config, train=[])))
    evaluation = prepare(eval_only, registry, labeller, progress, cache)

    def make_limit() -> BadRowLimit:
        limit = BadRowLimit(config.max_bad_rows)
        for cached, names in evaluation.cached:  # malformed rows that are evaluated count in each pass
            limit.add(cached.totals, names)
        return limit

    keys = frozenset(key for cached, _ in evaluation.cached for key in cached.table.keys.tolist())
    stream = Stream(sources, labeller, config, loaded.config.seed, keys, make_limit, sample, summary.worked_example)
    share = summary.trained / max(summary.tokens, 1)
    tokens = f"{count(summary.tokens, 'token')}, {summary.trained:,} of them trained ({share:.0%})"
    return evaluation._replace(
        train=stream,
        examples=sample,
        train_summary=Summary(
            worked_example=summary.worked_example,
            notes=[f"the first {count(summary.rows, 'row')}: {tokens}", *summary.notes],
        ),
        notes=[*map(_note, sources), *evaluation.notes],
    )


def _open_sources(loaded: LoadedConfig, registry: Registry) -> list[StreamSource]:
    """The sources to train.

    Raises:
        DataError: one cannot be read, has no rows, or its format cannot be detected.
    """
    sources: list[StreamSource] = []
    for at, config in enumerate(loaded.config.data.train):
        source = open_source(config, ("data", "train", at), loaded, registry)
        rows = estimate_rows(source)
        if not rows:
            raise DataError(f"data source {config.path}: has no rows")
        sources.append(StreamSource(source, rows))
    targets = target_rows([source.expected for source in sources], loaded.config.data.train)
    return [
        replace(source, rate=config.repeat if config.share is None else rows / source.expected)
        for source, config, rows in zip(sources, loaded.config.data.train, targets, strict=True)
    ]


def _first_blocks(sources: Sequence[StreamSource], loaded: LoadedConfig, labeller: Labeller) -> list[LabelledBlock]:
    """The first block of each source, labelled; or blocks of all, until anything is trained.

    Raises:
        DataError: there are too many malformed rows among these, or no row of all sources can be labelled.
        ConfigError: a source renames a column that none of its first rows has.
    """
    opened = [source.source for source in sources]
    limit = BadRowLimit(loaded.config.data.max_bad_rows)

    def labelled(block: Block) -> LabelledBlock:
        result = label_block(block, opened, labeller, label=True)
        limit.add(result.totals, opened[block.source].rows.names)
        if limit.is_exceeded():
            limit.check()
        return result

    first: list[LabelledBlock] = []
    for number, source in enumerate(sources):
        first.append(labelled(next(source.blocks(number))))
        source.source.check_columns(first[-1].totals.columns, loaded, f"row among the first {ROWS}")
    if any(block.totals.tokens for block in first):
        return first
    limit, first = BadRowLimit(loaded.config.data.max_bad_rows), []
    for block in chain.from_iterable(source.blocks(number) for number, source in enumerate(sources)):
        first.append(labelled(block))
        if first[-1].totals.tokens:
            return first
    rejected = sum(len(block.rejected) for block in first)
    if rejected == sum(block.totals.read for block in first):
        places = [
            row
            for block in first
            for row in rejected_at(
                [*block.totals.first_bad, *block.totals.first_unlabelled], opened[block.source].rows.names
            )
        ]
        raise DataError(rejected_rows([str(row) for row in places], rejected))
    return first


def _all_rows(block: LabelledBlock, sources: Sequence[StreamSource]) -> SelectedRows:
    assert block.table is not None
    rows = np.arange(block.table.num_rows)
    names = sources[block.source].source.rows.names
    return SelectedRows(Table([block.table]), names, rows, np.ones(len(rows), np.int64))


def _note(source: StreamSource) -> str:
    rate = "" if source.rate == 1 else f", each {source.rate:.3g} times in a pass"
    rows = f"about {count(source.expected, 'row')}{rate}"
    return f"{source.source.config.path}: a stream of {rows}, format {source.source.format_name}"
