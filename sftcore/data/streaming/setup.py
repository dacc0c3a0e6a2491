"""From the data section to a stream: its first rows are labelled, and all rows that are evaluated are prepared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice

from sftcore.config.loader import LoadedConfig
from sftcore.core.errors import DataError
from sftcore.core.registry import Registry
from sftcore.data.preparation.blocks import Block, read_blocks
from sftcore.data.preparation.pipeline import Prepared, beginnings, prepare
from sftcore.data.preparation.progress import PreparationProgress
from sftcore.data.preparation.source_cache import Cache
from sftcore.data.preparation.worker import LabelledBlock, label_block
from sftcore.data.selection import target_rows
from sftcore.data.sources.compression import suffixes
from sftcore.data.sources.formats import DataSource, open_source
from sftcore.data.sources.rejected import to_json
from sftcore.data.streaming.stream import ROWS, Stream, StreamSource
from sftcore.data.tables.account import SURE, BadRowLimit, RowTotals, check_labelled, check_usable, is_above
from sftcore.data.tables.examples import SelectedRows
from sftcore.data.tables.summary import Summary, check_template, summarize
from sftcore.data.tables.table import Table
from sftcore.labelling import Labeller
from sftcore.runtime.console import count

SAMPLED_BLOCKS = 16  # how many blocks are read to estimate the number of rows


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
        [SelectedRows.all_of(Table([block.table]), sources[block.source].source.rows.names) for block in first],
        "train",
        labeller.tokenizer,
        partial(beginnings, loaded=loaded, registry=registry),
        sum(sum(block.totals.unlabelled.values()) for block in first),
    )
    eval_only = replace(loaded, config=replace(loaded.config, data=replace(config, train=[])))

    def unread_note(block: LabelledBlock) -> str:
        return block.totals.unread_note(f"the first rows of {sources[block.source].source.config.path}")

    evaluation = prepare(eval_only, registry, labeller, progress, cache)
    first_example = summary.worked_example
    stream = Stream(sources, labeller, config, loaded.config.seed, evaluation.sources, sample, first_example)
    share = summary.trained / max(summary.tokens, 1)
    tokens = f"{count(summary.tokens, 'token')}, {summary.trained:,} of them trained ({share:.0%})"
    return evaluation._replace(
        train=stream,
        examples=sample,
        train_summary=Summary(
            worked_example=first_example, notes=[f"the first {count(summary.rows, 'row')}: {tokens}", *summary.notes]
        ),
        notes=[*map(_note, sources), *filter(None, map(unread_note, first)), *evaluation.notes],
    )


def _open_sources(loaded: LoadedConfig, registry: Registry) -> list[StreamSource]:
    """The sources to train, each of which has rows."""
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


def estimate_rows(source: DataSource) -> int:
    """About how many rows *source* has, from its first ones and the size of its files: the same in every process."""
    rest = read_blocks(0, source.rows, ROWS)
    first = list(islice(rest, SAMPLED_BLOCKS))
    rows = sum(len(block.rows) for block in first)
    if len(first) < SAMPLED_BLOCKS or next(rest, None) is None:
        return rows
    files, size = source.rows.files, source.rows.size
    file = files[first[-1].file] if files else None
    if file is not None and suffixes(file)[0] == ".parquet":
        import pyarrow.parquet

        estimate = float(pyarrow.parquet.read_metadata(file).num_rows * size / file.stat().st_size)
    elif file is not None and suffixes(file)[0] == ".json":  # read at once, so the position in it says nothing
        estimate = rows * size / sum(len(to_json(row).encode()) + 2 for block in first for _, row in block.rows)
    else:
        estimate = rows / max(first[-1].progress, 1e-9)
    return max(rows, math.ceil(min(estimate, source.config.limit or estimate)))


def _first_blocks(sources: Sequence[StreamSource], loaded: LoadedConfig, labeller: Labeller) -> list[LabelledBlock]:
    """The first block of each source, labelled; or blocks of all, until anything is trained."""
    opened = [source.source for source in sources]
    limit, most = BadRowLimit(loaded.config.data.max_bad_rows), loaded.config.data.max_unlabelled

    def labelled(block: Block) -> LabelledBlock:
        result = label_block(block, opened, labeller, label=True)
        limit.add(result.totals, opened[block.source].rows.names)
        if limit.is_exceeded():
            limit.check()
        return result

    first: list[LabelledBlock] = []
    for number, source in enumerate(sources):
        blocks, totals = source.blocks(number), RowTotals()
        first.append(labelled(next(blocks)))
        totals.add(first[-1].totals)
        while is_above(totals, most) and totals.read < SURE and (block := next(blocks, None)):
            totals.add(labelled(block).totals)
        check_labelled(source.source.config.path, totals, source.source.rows.names, most)
        source.source.check_columns(first[-1].totals.columns, loaded, f"row among the first {ROWS}")
    if any(block.totals.tokens for block in first):
        return first
    limit, first = BadRowLimit(loaded.config.data.max_bad_rows), []
    for block in chain.from_iterable(source.blocks(number) for number, source in enumerate(sources)):
        first.append(labelled(block))
        if first[-1].totals.tokens:
            return first
    check_usable([(block.totals, opened[block.source].rows.names) for block in first])
    return first


def _note(source: StreamSource) -> str:
    rate = "" if source.rate == 1 else f", each {source.rate:.3g} times in a pass"
    rows = f"about {count(source.expected, 'row')}{rate}"
    return f"{source.source.config.path}: a stream of {rows}, format {source.source.format_name}"
