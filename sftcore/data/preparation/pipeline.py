"""Everything between the data section of the configuration and the sets of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import NamedTuple

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
from sftcore.data.selection.selection import LabelledSource, select
from sftcore.data.sources.formats import DataSource, open_source, sample_sources
from sftcore.data.sources.rejected import RejectedRow, rejected_rows
from sftcore.data.tables.account import Account, BadRowLimit, RowTotals, make_account, merge, rejected_at
from sftcore.data.tables.examples import Examples
from sftcore.data.tables.summary import Summary, beginning_of, check_template, summarize
from sftcore.data.training_set import TrainingSet
from sftcore.labelling import Labeller
from sftcore.runtime.console import count


class SourceReport(NamedTuple):
    """The rows of one source in numbers, with the first of those that were rejected."""

    path: str
    format: str
    rows: int
    bad: int
    first_bad: list[RejectedRow]
    unlabelled: int
    first_unlabelled: list[RejectedRow]


class Prepared(NamedTuple):
    """What is trained and evaluated, with the account of the rows of all sources.

    Attributes:
        examples: of the training set before packing; of a stream those of its first rows.
        notes: status lines about the sources and the selection.
        fingerprint: SHA-256 over all labelled tokens.
        cached: the labelled rows, with the names of each source's files.
    """

    train: TrainingSet
    eval: MapStyleSet
    examples: Examples
    train_summary: Summary
    eval_summary: Summary
    sources: Sequence[SourceReport]
    account: Account
    notes: Sequence[str]
    fingerprint: str
    cached: Sequence[tuple[CachedSource, Sequence[str]]]

    def rejected(self) -> Iterator[str]:
        """Yield every rejected row as a line of ``quarantine.jsonl``."""
        for cached, names in self.cached:
            yield from cached.rejected(names)

    def final(self) -> Prepared:
        """The same, with the account of the rows of a stream, once training is over."""
        if (outcome := self.train.outcome()) is None:
            return self
        digest = hashlib.sha256(f"{outcome.fingerprint} {self.fingerprint}".encode()).hexdigest()
        return self._replace(
            train_summary=outcome.summary, account=merge(outcome.account, self.account), fingerprint=f"sha256:{digest}"
        )


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
    config = loaded.config.data
    train = len(config.train)
    sources, keys = _open_sources(loaded, registry, labeller)
    check_template((row for source in sources for row in source.parse_all()), labeller)
    cached = _labelled(sources, keys, loaded, labeller, progress or PreparationProgress(), cache or Cache())
    _check_sets(cached, sources, train)
    labelled = [LabelledSource(item.table, source.rows.names) for item, source in zip(cached, sources, strict=True)]
    selection = select(labelled[:train], labelled[train:], config, loaded.config.seed)

    def shown(origins: Sequence[Origin]) -> list[str]:
        return list(beginnings(origins, loaded, registry))

    def unlabelled(part: Sequence[CachedSource]) -> int:
        return sum(sum(item.totals.unlabelled.values()) for item in part)

    tokenizer = labeller.tokenizer
    examples, train_summary = summarize(selection.train, "train", tokenizer, shown, unlabelled(cached[:train]))
    eval_examples, eval_summary = summarize(selection.eval, "eval", tokenizer, shown, unlabelled(cached[train:]))
    return Prepared(
        train=examples,
        eval=eval_examples,
        examples=examples,
        train_summary=train_summary,
        eval_summary=eval_summary,
        sources=[_report(*item) for item in zip(sources, cached, strict=True)],
        account=make_account([item.totals for item in cached], selection.dropped, train_summary, eval_summary),
        notes=selection.notes,
        fingerprint=selection.fingerprint(),
        cached=[(item, source.rows.names) for item, source in zip(cached, sources, strict=True)],
    )


def _open_sources(loaded: LoadedConfig, registry: Registry, labeller: Labeller) -> tuple[list[DataSource], list[str]]:
    """All sources, those to train first, and the key of each."""
    config = loaded.config.data
    places: list[tuple[SourceConfig, str, int]] = [(source, "train", at) for at, source in enumerate(config.train)]
    if isinstance(config.eval, list):
        places += [(source, "eval", at) for at, source in enumerate(config.eval)]
    sources: list[DataSource] = []
    keys: list[str] = []
    with ThreadPoolExecutor(1) as executor:
        labeller_digest = ""
        for source_config, part, at in places:
            try:
                source = open_source(source_config, ("data", part, at), loaded, registry)
                digests = executor.map(data_digest, source.rows.files)
                labeller_digest = labeller_digest or digest_labeller(labeller)
                keys.append(source_key(source, digests, labeller_digest))
            except OSError as error:
                name = error.filename or source_config.path
                raise DataError(f"data source {name} cannot be read: {error.strerror}") from None
            sources.append(source)
    return sources, keys


def _labelled(
    sources: Sequence[DataSource],
    keys: Sequence[str],
    loaded: LoadedConfig,
    labeller: Labeller,
    progress: PreparationProgress,
    cache: Cache,
) -> list[CachedSource]:
    """The labelled rows of *sources*; those that are not in *cache* are labelled now."""
    limit = BadRowLimit(loaded.config.data.max_bad_rows)
    known: dict[str, CachedSource] = {}
    size = sum(source.rows.size for source in sources)
    with WorkerPool(sources, labeller, size, loaded.config.data.workers) as pool:
        for number, (source, key) in enumerate(zip(sources, keys, strict=True)):
            run = _SourceRun(number, source, pool, limit, progress)
            about = {"source": source.config.path, "files": list(source.rows.names), "format": source.format_name}
            cached = known.get(key)
            if cached is None and limit.is_exceeded():
                cached = cache.find(key)
            elif cached is None:
                with suppress(_LimitExceededError):
                    cached = cache.get(key, about, run.label, source.rows.check_unchanged)
            if cached:
                known[key] = cached
            elif not run.started:
                run.check_rows()
            totals = cached.totals if cached else run.totals
            limit.add(totals, source.rows.names)
            source.check_columns(totals.columns, loaded)
    limit.check()
    return [known[key] for key in keys]


class _LimitExceededError(Exception):
    """There are more malformed rows than the run tolerates."""


class _SourceRun:
    """Labels the rows of one source, or only checks them, once there are too many bad ones."""

    def __init__(
        self, number: int, source: DataSource, pool: WorkerPool, limit: BadRowLimit, progress: PreparationProgress
    ) -> None:
        self._number, self._source = number, source
        self._pool, self._limit, self._progress = pool, limit, progress
        self.started = False
        self.totals = RowTotals()

    def label(self, writer: CacheWriter) -> None:
        """Write the blocks that *writer* lacks.

        Raises:
            DataError: as the pool raises it.
            _LimitExceededError: there are too many malformed rows; all are counted.
        """
        self.started = True
        self.totals = RowTotals()
        self.totals.add(writer.totals)
        complete = True
        for block in self._blocks(writer.blocks):
            complete = complete and block.table is not None
            if complete:
                writer.add(block)
        if not complete:
            raise _LimitExceededError

    def check_rows(self) -> None:
        """Count the malformed rows of the whole source."""
        for _ in self._blocks(0):
            pass

    def _blocks(self, first: int) -> Iterator[LabelledBlock]:
        exceeded = partial(self._limit.is_exceeded, self.totals)
        self._progress.start(self._source.config.path)
        complete = False
        try:
            rest = islice(read_blocks(self._number, self._source.rows), first, None)
            for block in self._pool.map(rest, lambda: not exceeded()):
                self.totals.add(block.totals)
                self._progress.update(block.progress, block.totals.read, block.totals.tokens)
                yield block
            complete = not exceeded()
        finally:
            self._progress.finish(complete)


def _check_sets(cached: Sequence[CachedSource], sources: Sequence[DataSource], train: int) -> None:
    """Raise if a set has no row that could be read and labelled."""
    for prefix, part in (("", slice(None, train)), ("data.eval: ", slice(train, None))):
        totals = RowTotals()
        first: list[RejectedRow] = []
        for item, source in zip(cached[part], sources[part], strict=True):
            totals.add(item.totals)
            first += rejected_at([*item.totals.first_bad, *item.totals.first_unlabelled], source.rows.names)
        rejected = sum(totals.bad.values()) + sum(totals.unlabelled.values())
        if rejected and rejected == totals.read:
            raise DataError(prefix + rejected_rows([str(row) for row in first], rejected))


def _report(source: DataSource, cached: CachedSource) -> SourceReport:
    totals, names = cached.totals, source.rows.names
    return SourceReport(
        source.config.path,
        source.format_name,
        totals.read,
        sum(totals.bad.values()),
        rejected_at(totals.first_bad, names),
        sum(totals.unlabelled.values()),
        rejected_at(totals.first_unlabelled, names),
    )


def beginnings(origins: Sequence[Origin], loaded: LoadedConfig, registry: Registry) -> Iterator[str]:
    """Yield the beginnings of the rows at *origins*."""
    config = loaded.config.data
    wanted = set(origins)
    for sources, part in ((config.train, "train"), (config.eval, "eval")):
        if isinstance(sources, list):
            for sample in sample_sources(sources, ("data", part), loaded, registry, wanted.__contains__, len(wanted)):
                yield from (f"{row.origin}: {beginning_of(row.conversation)}" for row in sample.rows)


def pack(prepared: Prepared, max_length: int, batch_sizes: tuple[int, int]) -> Prepared:
    """*prepared* with its examples in rows that they share, and how full these are.

    Args:
        batch_sizes: rows of the batches that a device trains and evaluates on.
    """
    train = prepared.train
    if not train.streaming:  # a stream packs what it reads
        train = _packed(prepared.examples, max_length, batch_sizes[0], prepared.train_summary)
    return prepared._replace(
        train=train, eval=_packed(prepared.eval, max_length, batch_sizes[1], prepared.eval_summary)
    )


def _packed(examples: MapStyleSet, max_length: int, batch_size: int, summary: Summary) -> PackedSet:
    packed = PackedSet(examples, max_length)
    if len(examples):
        fill, avoided = packed.bins.fill, padding_share(packed.bins.lengths, batch_size)
        summary.packing = {
            "rows_before": len(examples),
            "rows": len(packed),
            "fill": fill,
            "padding_avoided": avoided,
            "padding_batch_size": batch_size,
        }
        unpacked = f"; batches of {batch_size} unpacked would be {avoided:.1%} padding" if batch_size > 1 else ""
        summary.notes.append(
            f"{count(len(examples), 'example')} packed into {count(len(packed), 'row')} of {max_length} tokens, "
            f"{fill:.2%} full{unpacked}"
        )
    return packed
