"""Everything between the data section of the configuration and the sets of a run."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from sftcore.config.loader import LoadedConfig
from sftcore.config.schema import SourceConfig
from sftcore.core.errors import DataError
from sftcore.core.registry import Registry
from sftcore.data.batching.bin_packing import padding_share
from sftcore.data.batching.packing import PackedSet
from sftcore.data.batching.padded_sampler import MapStyleSet
from sftcore.data.preparation.blocks import read_blocks
from sftcore.data.preparation.fingerprint import data_digest, digest_labeller, source_key
from sftcore.data.preparation.pool import WorkerPool
from sftcore.data.preparation.progress import PreparationProgress
from sftcore.data.preparation.source_cache import Cache, CachedSource, CacheWriter
from sftcore.data.preparation.worker import LabelledBlock
from sftcore.data.row_types import Origin
from sftcore.data.selection import select
from sftcore.data.sources.formats import DataSource, open_source, sample_sources
from sftcore.data.tables.account import (
    Account,
    BadRowLimit,
    RowTotals,
    check_labelled,
    check_usable,
    make_account,
    merge,
)
from sftcore.data.tables.examples import Examples, SelectedRows
from sftcore.data.tables.summary import Summary, beginning_of, check_template, summarize
from sftcore.data.training_set import Progress, TrainingSet
from sftcore.labelling import Labeller


class PreparedSource(NamedTuple):
    """A source and its labelled rows, with the *names* of its files as messages call them."""

    source: DataSource
    cached: CachedSource
    names: Sequence[str]


class Prepared(NamedTuple):
    """What is trained and evaluated, with the account of the rows of all sources."""

    train: TrainingSet
    eval: MapStyleSet
    examples: Examples  # of the training set before packing; of a stream those of its first rows
    train_summary: Summary
    eval_summary: Summary
    sources: Sequence[PreparedSource]  # those of which all rows were prepared, so none that is streamed
    account: Account
    notes: Sequence[str]  # status lines about the sources and the selection
    fingerprint: str  # SHA-256 over all labelled tokens

    def rejected(self) -> Iterator[str]:
        """Yield every rejected row as a line of ``quarantine.jsonl``."""
        for item in self.sources:
            yield from item.cached.rejected(item.names)

    def final(self, progress: Progress) -> Prepared:
        """The same, with what was trained and evaluated when training is over: not what was prepared for it."""
        examples: Any = getattr(self.eval, "documents", self.eval)
        evaluated = np.array(self.eval.examples_of(range(progress.evaluated or 0)), np.int64)
        parts = examples.counts_of(evaluated)
        paths = [item.source.config.path for item in self.sources]
        evaluation = self.eval_summary.reduced_to(parts, paths[len(paths) - len(parts) :])
        if (outcome := self.train.outcome()) is not None:
            account = merge(outcome.account, self.account.reduced_to(self.account.trained, evaluation.kept))
            digest = hashlib.sha256(f"{outcome.fingerprint} {self.fingerprint}".encode()).hexdigest()
            final = self._replace(train_summary=outcome.summary, account=account, fingerprint=f"sha256:{digest}")
            return final._replace(eval_summary=evaluation)
        assert isinstance(self.train, MapStyleSet)
        trained = np.array(self.train.examples_of(self.train.trained(progress)), np.int64)
        parts = self.examples.counts_of(trained)
        summary = self.train_summary.reduced_to(parts, paths[: len(parts)])
        account = self.account.reduced_to(summary.kept, evaluation.kept)
        return self._replace(train_summary=summary, eval_summary=evaluation, account=account)


def prepare(
    loaded: LoadedConfig,
    registry: Registry,
    labeller: Labeller,
    progress: PreparationProgress | None = None,
    cache: Cache | None = None,
) -> Prepared:
    """Label every row of all sources, unless it is cached, and select those that are trained and evaluated.

    Raises:
        DataError: more malformed rows than ``data.max_bad_rows``, a set without rows, nothing trained, or a row that
            is too long where the policy is to end the run.
        ConfigError: a source renames a column that no row has, or the chat template can label nothing.
        SftError: the labelled rows cannot be cached.
    """
    config, tokenizer = loaded.config.data, labeller.tokenizer
    opened, keys = _open_sources(loaded, registry, labeller)
    check_template((row for source in opened for row in source.parse_all()), labeller)
    sources = _labelled(opened, keys, loaded, labeller, progress or PreparationProgress(), cache or Cache())
    train, evaluation = sources[: len(config.train)], sources[len(config.train) :]
    for part, prefix in ((train, ""), (evaluation, "data.eval: ")):
        check_usable([(item.cached.totals, item.names) for item in part], prefix)
    for item in sources:
        check_labelled(item.source.config.path, item.cached.totals, item.names, config.max_unlabelled)
    rows = [SelectedRows.all_of(item.cached.table, item.names) for item in sources]
    selection = select(rows[: len(train)], rows[len(train) :], config, loaded.config.seed)

    shown = partial(beginnings, loaded=loaded, registry=registry)

    def unlabelled(part: Sequence[PreparedSource]) -> int:
        return sum(sum(item.cached.totals.unlabelled.values()) for item in part)

    examples, train_summary = summarize(selection.train, "train", tokenizer, shown, unlabelled(train))
    eval_examples, eval_summary = summarize(selection.eval, "eval", tokenizer, shown, unlabelled(evaluation))
    return Prepared(
        train=examples,
        eval=eval_examples,
        examples=examples,
        train_summary=train_summary,
        eval_summary=eval_summary,
        sources=sources,
        account=make_account([item.cached.totals for item in sources], selection.dropped, train_summary, eval_summary),
        notes=selection.notes,
        fingerprint=selection.fingerprint(),
    )


def _open_sources(loaded: LoadedConfig, registry: Registry, labeller: Labeller) -> tuple[list[DataSource], list[str]]:
    """All sources, those to train first, and the key of each."""
    sources: list[DataSource] = []
    keys: list[str] = []
    with ThreadPoolExecutor(1) as executor:
        labeller_digest = ""
        for part in ("train", "eval"):
            for at, config in enumerate(configured_sources(loaded, part)):
                try:
                    source = open_source(config, ("data", part, at), loaded, registry)
                    digests = executor.map(data_digest, source.rows.files)
                    labeller_digest = labeller_digest or digest_labeller(labeller)
                    keys.append(source_key(source, digests, labeller_digest))
                except OSError as error:
                    name = error.filename or config.path
                    raise DataError(f"data source {name} cannot be read: {error.strerror}") from None
                sources.append(source)
    return sources, keys


def configured_sources(loaded: LoadedConfig, part: str) -> list[SourceConfig]:
    """The sources of the *part* ``train`` or ``eval`` of the data."""
    sources = getattr(loaded.config.data, part)
    return sources if isinstance(sources, list) else []


def _labelled(
    sources: Sequence[DataSource],
    keys: Sequence[str],
    loaded: LoadedConfig,
    labeller: Labeller,
    progress: PreparationProgress,
    cache: Cache,
) -> list[PreparedSource]:
    """*sources* with their labelled rows; those that are not in *cache* are labelled now."""
    limit = BadRowLimit(loaded.config.data.max_bad_rows)
    known: dict[str, CachedSource] = {}
    size = sum(source.rows.size for source in sources)
    with WorkerPool(sources, labeller, size, loaded.config.data.workers) as pool:
        for number, (source, key) in enumerate(zip(sources, keys, strict=True)):
            run = _SourceRun(number, source, pool, limit, progress)
            if cached := known.get(key) or run.cached(key, cache):
                known[key] = cached
            totals = cached.totals if cached else run.totals
            limit.add(totals, source.rows.names)
            source.check_columns(totals.columns, loaded)
    limit.check()
    return [PreparedSource(source, known[key], source.rows.names) for source, key in zip(sources, keys, strict=True)]


class _LimitExceededError(Exception):
    """There are more malformed rows than the run tolerates."""


class _SourceRun:
    """Labels the rows of one source, or only checks them, once there are too many bad ones."""

    def __init__(
        self, number: int, source: DataSource, pool: WorkerPool, limit: BadRowLimit, progress: PreparationProgress
    ) -> None:
        self._number, self._source = number, source
        self._pool, self._limit, self._progress = pool, limit, progress
        self.totals = RowTotals()

    def cached(self, key: str, cache: Cache) -> CachedSource | None:
        """The labelled rows of the source; None if there are too many malformed ones, which are all counted then."""
        if self._limit.is_exceeded():
            if not (cached := CachedSource.open(cache.folder / key)):
                deque(self._blocks(0), maxlen=0)
            return cached
        source = self._source
        about = {"source": source.config.path, "files": list(source.rows.names), "format": source.format_name}
        with suppress(_LimitExceededError):
            return cache.get(key, about, self._label, source.rows.check_unchanged)
        return None

    def _label(self, writer: CacheWriter) -> None:
        """Write the blocks that *writer* lacks; if there are too many malformed rows, count all, and raise."""
        self.totals = RowTotals()
        self.totals.add(writer.totals)
        complete = True
        for block in self._blocks(writer.blocks):
            complete = complete and block.table is not None
            if complete:
                writer.add(block)
        if not complete:
            raise _LimitExceededError

    def _blocks(self, first: int) -> Iterator[LabelledBlock]:
        def is_tolerable() -> bool:
            return not self._limit.is_exceeded(self.totals)

        self._progress.start(self._source.config.path)
        complete = False
        try:
            rest = islice(read_blocks(self._number, self._source.rows), first, None)
            for block in self._pool.map(rest, is_tolerable):
                self.totals.add(block.totals)
                self._progress.update(block.progress, block.totals.read, block.totals.tokens)
                yield block
            complete = is_tolerable()
        finally:
            self._progress.finish(complete)


def beginnings(origins: Sequence[Origin], loaded: LoadedConfig, registry: Registry) -> list[str]:
    """The beginnings of the rows at *origins*."""
    wanted = set(origins)
    return [
        f"{row.origin}: {beginning_of(row.conversation)}"
        for part in ("train", "eval")
        for sample in sample_sources(
            configured_sources(loaded, part), ("data", part), loaded, registry, wanted.__contains__, len(wanted)
        )
        for row in sample.rows
    ]


def pack(prepared: Prepared, max_length: int, batch_sizes: tuple[int, int]) -> Prepared:
    """*prepared* with its examples in shared rows, and how full these are; *batch_sizes* per device: train and eval."""
    if not prepared.train.streaming:  # a stream packs what it reads
        train = _packed(prepared.examples, max_length, batch_sizes[0], prepared.train_summary)
        prepared = prepared._replace(train=train)
    return prepared._replace(eval=_packed(prepared.eval, max_length, batch_sizes[1], prepared.eval_summary))


def _packed(examples: MapStyleSet, max_length: int, batch_size: int, summary: Summary) -> PackedSet:
    packed = PackedSet(examples, max_length)
    if len(examples):
        avoided = padding_share(packed.bins.lengths, batch_size)
        unpacked = f"; batches of {batch_size} unpacked would be {avoided:.1%} padding" if batch_size > 1 else ""
        padding = {"padding_avoided": avoided, "padding_batch_size": batch_size}
        summary.add_packing(len(packed), packed.bins.fill, max_length, unpacked, **padding)
    return packed
