"""From the data section to a stream: its first rows are read and labelled, and all rows that are evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from sftcore.config.loader import LoadedConfig
from sftcore.core.errors import DataError
from sftcore.core.registry import Registry
from sftcore.data.preparation import fingerprint
from sftcore.data.preparation.blocks import Block
from sftcore.data.preparation.cache import Cache, Totals, named
from sftcore.data.preparation.pipeline import Prepared, beginnings, prepare
from sftcore.data.preparation.progress import Progress
from sftcore.data.preparation.worker import Done, Task, work
from sftcore.data.selection.mixing import targets
from sftcore.data.sources.files import Reading, files_of, read
from sftcore.data.sources.formats import parse, reader_of
from sftcore.data.sources.rejected import Refusal, bad_rows
from sftcore.data.sources.renaming import Columns
from sftcore.data.streaming.interleave import ROWS, Feed, expected
from sftcore.data.streaming.stream import BadRows, Stream
from sftcore.data.tables.examples import Part
from sftcore.data.tables.summary import Summary, check_template, summarize
from sftcore.data.tables.table import Table
from sftcore.labelling import Labeller
from sftcore.runtime.console import count


def prepare_stream(
    loaded: LoadedConfig,
    registry: Registry,
    labeller: Labeller,
    progress: Progress | None = None,
    cache: Cache | None = None,
) -> Prepared:
    """Return a stream of the rows to train, whose first are sound, and the examples to evaluate.

    Raises:
        DataError: there are too many bad rows among the first, or nothing of a source is trained.
        ConfigError: a source renames a column that no row has, or the chat template can label nothing.
        SftError: the evaluation rows cannot be kept.
    """
    config, seed = loaded.config.data, loaded.config.seed
    feeds = _feeds(loaded, registry)
    check_template(
        chain.from_iterable(
            parse(read(reader.source, loaded.document, True), reader, [], Columns(reader.source.columns))
            for reader in (feed.task.reader for feed in feeds)
        ),
        labeller,
    )
    first = _first(feeds, loaded, labeller)
    parts = [_part(done, feeds) for done in first]
    unlabelled = sum(len(done.unlabelled) for done in first)
    sample, summary = summarize(
        parts,
        "train",
        labeller.tokenizer,
        lambda origins: list(beginnings(origins, loaded, registry)),
        unlabelled,
    )
    alone = replace(loaded, config=replace(loaded.config, data=replace(config, train=[])))
    evaluated = prepare(alone, registry, labeller, progress, cache)
    totals, bad = Totals(), list[Refusal]()
    for stored, names in evaluated.stored:
        totals.add(stored.totals)
        bad += named(stored.totals.first_bad, names)
    keys = frozenset(key for stored, _ in evaluated.stored for key in stored.table.keys.tolist())
    limit = BadRows(config.max_bad_rows, totals, bad)
    stream = Stream(feeds, labeller, config, seed, keys, limit, sample, summary.worked_example)
    share = summary.trained / max(summary.tokens, 1)
    said = f"{count(summary.tokens, 'token')}, {summary.trained:,} of them trained ({share:.0%})"
    return evaluated._replace(
        train=stream,
        examples=sample,
        train_summary=Summary(
            worked_example=summary.worked_example,
            notes=[f"the first {count(summary.rows, 'row')}: {said}", *summary.notes],
        ),
        notes=[*map(_told, feeds), *evaluated.notes],
    )


def _feeds(loaded: LoadedConfig, registry: Registry) -> list[Feed]:
    """Return the sources to train.

    Raises:
        DataError: one cannot be read, has no rows, or its format cannot be told.
    """
    feeds: list[Feed] = []
    for at, source in enumerate(loaded.config.data.train):
        files = files_of(source, loaded.document)
        reader = reader_of(source, ("data", "train", at), loaded, registry)
        reading = Reading(source, files, streaming=True)
        seen = [fingerprint.seen(file) for file in files]
        rows = expected(source, reading, files)
        if not rows:
            raise DataError(f"data source {source.path}: has no rows")
        feeds.append(Feed(Task(reader, reading.names), files, seen, reading, rows))
    wanted = targets([feed.expected for feed in feeds], loaded.config.data.train)
    sources = zip(feeds, loaded.config.data.train, wanted, strict=True)
    return [
        replace(feed, rate=source.repeat if source.share is None else rows / feed.expected)
        for feed, source, rows in sources
    ]


def _first(feeds: Sequence[Feed], loaded: LoadedConfig, labeller: Labeller) -> list[Done]:
    """Return what becomes of the first block of each source; and of more, until anything is trained.

    Raises:
        DataError: there are too many bad rows among these, or no row of all sources can be labelled.
        ConfigError: a source renames a column that none of its first rows has.
    """
    bad, tasks = BadRows(loaded.config.data.max_bad_rows, Totals(), []), [feed.task for feed in feeds]

    def labelled(block: Block) -> Done:
        done = work(block, tasks, labeller, label=True)
        bad.add(done)
        return done

    found: list[Done] = []
    for number, feed in enumerate(feeds):
        done = labelled(next(feed.blocks(number)))
        columns = Columns(feed.task.reader.source.columns)
        columns.saw(done.seen)
        feed.task.reader.check_columns(columns, loaded, f"row among the first {ROWS}")
        found.append(done)
    if any(done.tokens for done in found):
        return found
    bad.begin()
    found = []
    for block in chain.from_iterable(feed.blocks(number) for number, feed in enumerate(feeds)):
        found.append(labelled(block))
        if found[-1].tokens:
            return found
    refused = [str(refusal) for done in found for refusal in (*done.bad, *done.unlabelled)]
    if len(refused) == sum(done.read for done in found):
        raise DataError(bad_rows(refused))
    return found


def _part(done: Done, feeds: Sequence[Feed]) -> Part:
    assert done.table is not None
    rows = np.arange(done.table.num_rows)
    return Part(Table([done.table]), feeds[done.source].task.names, rows, np.ones(len(rows), np.int64))


def _told(feed: Feed) -> str:
    rate = "" if feed.rate == 1 else f", each {feed.rate:.3g} times in a pass"
    rows = f"about {count(feed.expected, 'row')}{rate}"
    return f"{feed.path}: a stream of {rows}, format {feed.task.reader.chosen}"
