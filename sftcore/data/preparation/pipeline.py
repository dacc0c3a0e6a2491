"""Everything between the configuration's data section and the examples a run trains on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from sftcore.config.loader import LoadedConfig
from sftcore.config.schema import SourceConfig
from sftcore.core.errors import DataError
from sftcore.core.registry import Registry
from sftcore.data.batching.bin_packing import padding
from sftcore.data.batching.packing import PackedSet
from sftcore.data.batching.padded_sampler import MapStyleSet
from sftcore.data.preparation import fingerprint
from sftcore.data.preparation.blocks import blocks
from sftcore.data.preparation.cache import Cache, Part, Stored, Totals, named
from sftcore.data.preparation.pool import Workers
from sftcore.data.preparation.progress import Progress
from sftcore.data.preparation.worker import Done, Task
from sftcore.data.row_types import Origin
from sftcore.data.selection.selection import Labelled, Selection, select
from sftcore.data.sources import rejected
from sftcore.data.sources.files import Reading, files_of, read
from sftcore.data.sources.formats import Parsed, parse, parse_sources, reader_of
from sftcore.data.sources.rejected import Refusal
from sftcore.data.sources.renaming import Columns
from sftcore.data.tables.account import Account, account, merge
from sftcore.data.tables.examples import Examples
from sftcore.data.tables.summary import Summary, beginning, check_template, summarize
from sftcore.data.training_set import TrainingSet
from sftcore.labelling import Labeller
from sftcore.runtime.console import count


class Source(NamedTuple):
    """One source: how it is read, from where, and under which key its labelled rows are kept."""

    task: Task
    files: list[Path]
    seen: list[list[int]]
    reading: Reading
    key: str

    @property
    def path(self) -> str:
        """Its path as the configuration has it."""
        return self.task.reader.source.path

    def check_unchanged(self) -> None:
        """Raise if a file is not what it was when its bytes went into the key.

        Raises:
            DataError: one is not.
        """
        fingerprint.check_unchanged(self.files, self.seen)

    def check_columns(self, seen: Sequence[str], loaded: LoadedConfig) -> None:
        """Raise for a column that is renamed and that is not among those which rows had.

        Raises:
            ConfigError: there is one.
        """
        columns = Columns(self.task.reader.source.columns)
        columns.saw(seen)
        self.task.reader.check_columns(columns, loaded)


class Read(NamedTuple):
    """What was read of one source: number of rows, and of those that are refused, with the first of these."""

    path: str
    format: str
    rows: int
    bad: int
    first_bad: list[Refusal]
    unlabelled: int
    first_unlabelled: list[Refusal]


class Prepared(NamedTuple):
    """What is trained and evaluated, and what became of the rows of all sources.

    Attributes:
        examples: of the training set before packing; of a stream those of its first rows.
        notes: status lines about the sources and how rows were selected.
        fingerprint: SHA-256 over all labelled tokens.
        stored: where these are cached, with the names of the source's files.
    """

    train: TrainingSet
    eval: MapStyleSet
    examples: Examples
    train_summary: Summary
    eval_summary: Summary
    sources: Sequence[Read]
    account: Account
    notes: Sequence[str]
    fingerprint: str
    stored: Sequence[tuple[Stored, Sequence[str]]]

    def refused(self) -> Iterator[str]:
        """Yield every row that was refused, as a line of ``quarantine.jsonl``."""
        for stored, names in self.stored:
            yield from stored.refused(names)

    def final(self) -> Prepared:
        """The same, with what became of the rows of a stream, once training is over."""
        if (outcome := self.train.outcome()) is None:
            return self
        both = hashlib.sha256(f"{outcome.fingerprint} {self.fingerprint}".encode()).hexdigest()
        return self._replace(
            train_summary=outcome.summary, account=merge(outcome.account, self.account), fingerprint=f"sha256:{both}"
        )


def prepare(
    loaded: LoadedConfig,
    registry: Registry,
    labeller: Labeller,
    progress: Progress | None = None,
    cache: Cache | None = None,
) -> Prepared:
    """Label every row of all sources, unless that was done before, and choose those that are trained and evaluated.

    Raises:
        DataError: more bad rows than ``data.max_bad_rows``, a set without rows, nothing that is trained, or a row that
            is too long where the policy is to end the run.
        ConfigError: a source renames a column that no row has, or the chat template can label nothing.
        SftError: the labelled rows cannot be kept.
    """
    config = loaded.config.data
    sources = _sources(loaded, registry, labeller)
    check_template(_rows(sources, loaded), labeller)
    stored = _stored(sources, loaded, labeller, progress or Progress(), cache or Cache())
    _check_sets(stored, sources, len(config.train))
    labelled = [Labelled(item.table, source.task.names) for item, source in zip(stored, sources, strict=True)]
    chosen = select(labelled[: len(config.train)], labelled[len(config.train) :], config, loaded.config.seed)

    def shown(origins: Sequence[Origin]) -> list[str]:
        return list(beginnings(origins, loaded, registry))

    def unlabelled(part: Sequence[Stored]) -> int:
        return sum(sum(item.totals.unlabelled.values()) for item in part)

    tokenizer, first, others = labeller.tokenizer, stored[: len(config.train)], stored[len(config.train) :]
    train, train_summary = summarize(chosen.train, "train", tokenizer, shown, unlabelled(first))
    held_back, eval_summary = summarize(chosen.eval, "eval", tokenizer, shown, unlabelled(others))
    return Prepared(
        train,
        held_back,
        train,
        train_summary,
        eval_summary,
        [_read(*item) for item in zip(sources, stored, strict=True)],
        _account(stored, chosen, train_summary, eval_summary),
        chosen.notes,
        chosen.fingerprint(),
        [(item, source.task.names) for item, source in zip(stored, sources, strict=True)],
    )


def _sources(loaded: LoadedConfig, registry: Registry, labeller: Labeller) -> list[Source]:
    """Return all sources, those to train first."""
    config = loaded.config.data
    places: list[tuple[SourceConfig, str, int]] = [(source, "train", at) for at, source in enumerate(config.train)]
    if isinstance(config.eval, list):
        places += [(source, "eval", at) for at, source in enumerate(config.eval)]
    found: list[Source] = []
    with ThreadPoolExecutor(1) as aside:
        serving = ""
        for source, part, at in places:
            try:
                files = files_of(source, loaded.document)
                reader = reader_of(source, ("data", part, at), loaded, registry)
                reading = Reading(source, files)
                seen = [fingerprint.seen(file) for file in files]
                digests = aside.map(fingerprint.digest, files)
                serving = serving or fingerprint.serving_digest(labeller)
                key = fingerprint.key(reader, reading, files, digests, serving)
            except OSError as error:
                name = error.filename or source.path
                raise DataError(f"data source {name} cannot be read: {error.strerror}") from None
            found.append(Source(Task(reader, reading.names), files, seen, reading, key))
    return found


def _rows(sources: Sequence[Source], loaded: LoadedConfig) -> Iterator[Parsed]:
    """Yield the rows of all sources."""
    for source in sources:
        reader = source.task.reader
        yield from parse(read(reader.source, loaded.document), reader, [], Columns(reader.source.columns))


def _stored(
    sources: Sequence[Source], loaded: LoadedConfig, labeller: Labeller, progress: Progress, cache: Cache
) -> list[Stored]:
    """Return the labelled rows of *sources*; those that are not in *cache* are labelled now."""
    limit = _Limit(loaded.config.data.max_bad_rows)
    found: dict[str, Stored] = {}
    tasks, size = [source.task for source in sources], sum(source.reading.size for source in sources)
    with Workers(tasks, labeller, size, loaded.config.data.workers) as workers:
        for number, source in enumerate(sources):
            maker = _Maker(number, source, workers, limit, progress)
            about = {"source": source.path, "files": list(source.task.names), "format": source.task.reader.chosen}
            stored = found.get(source.key)
            if stored is None and limit.passed:
                stored = cache.find(source.key)
            elif stored is None:
                with suppress(_PassedError):
                    stored = cache.get(source.key, about, maker.label, source.check_unchanged)
            if stored:
                found[source.key] = stored
            elif not maker.begun:
                maker.look()
            totals = stored.totals if stored else maker.totals
            limit.add(totals, source.task.names)
            source.check_columns(totals.seen, loaded)
    limit.check()
    return [found[source.key] for source in sources]


class _PassedError(Exception):
    """There are more bad rows than the run bears."""


class _Limit:
    """Counts the bad rows of all sources, and knows when they are too many."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._totals = Totals()
        self._first: list[Refusal] = []

    @property
    def passed(self) -> bool:
        """Whether there are too many, however many rows are still to come."""
        return self.passed_with(Totals())

    def passed_with(self, totals: Totals) -> bool:
        """Whether there are too many with those of a source that is not counted yet."""
        bad = sum(self._totals.bad.values()) + sum(totals.bad.values())
        return not 0 < self._most < 1 and bad > self._most

    def add(self, totals: Totals, names: Sequence[str]) -> None:
        """Count rows of a source whose files have these *names*."""
        self._first = [*self._first, *named(totals.first_bad, names)][: rejected.SHOWN]
        self._totals.add(totals)

    def check(self) -> None:
        """Raise if there are too many, with the first and the numbers of all."""
        rejected.check(self._first, self._totals.bad, self._totals.read, self._most)


class _Maker:
    """Labels the rows of one source, or only looks for bad ones, once there are too many."""

    def __init__(self, number: int, source: Source, workers: Workers, limit: _Limit, progress: Progress) -> None:
        self._number = number
        self._source = source
        self._workers = workers
        self._limit = limit
        self._progress = progress
        self.begun = False
        self.totals = Totals()

    def label(self, part: Part) -> None:
        """Add to *part* the blocks that it lacks.

        Raises:
            DataError: as the workers raise it.
            _PassedError: there are too many bad rows; all are counted.
        """
        self.begun = True
        self.totals = Totals()
        self.totals.add(part.totals)
        whole = True
        for done in self._done(part.blocks):
            whole = whole and done.table is not None
            if whole:
                part.add(done)
        if not whole:
            raise _PassedError

    def look(self) -> None:
        """Look for bad rows in the whole source."""
        for _ in self._done(0):
            pass

    def _done(self, first: int) -> Iterator[Done]:
        self._progress.begin(self._source.path)
        whole = False
        try:
            rest = islice(blocks(self._number, self._source.reading), first, None)
            for done in self._workers.map(rest, lambda: not self._limit.passed_with(self.totals)):
                self.totals.add(Totals.of(done))
                self._progress.done(done.share, done.read, done.tokens)
                yield done
            whole = not self._limit.passed_with(self.totals)
        finally:
            self._progress.end(whole)


def _check_sets(stored: Sequence[Stored], sources: Sequence[Source], train: int) -> None:
    """Raise if a set has no row that could be read and labelled."""
    for name, part in (("train", slice(None, train)), ("eval", slice(train, None))):
        totals = Totals()
        first: list[Refusal] = []
        for item, source in zip(stored[part], sources[part], strict=True):
            totals.add(item.totals)
            first += named([*item.totals.first_bad, *item.totals.first_unlabelled], source.task.names)
        refused = sum(totals.bad.values()) + sum(totals.unlabelled.values())
        if refused and refused == totals.read:
            prefix = "" if name == "train" else f"data.{name}: "
            raise DataError(prefix + rejected.bad_rows([str(refusal) for refusal in first], refused))


def _read(source: Source, stored: Stored) -> Read:
    totals, names = stored.totals, source.task.names
    return Read(
        source.path,
        source.task.reader.chosen,
        totals.read,
        sum(totals.bad.values()),
        named(totals.first_bad, names),
        sum(totals.unlabelled.values()),
        named(totals.first_unlabelled, names),
    )


def _account(stored: Sequence[Stored], chosen: Selection, train: Summary, held_back: Summary) -> Account:
    refused: Counter[str] = Counter()
    for item in stored:
        refused += Counter(item.totals.bad) + Counter(item.totals.unlabelled)
    return account(sum(item.totals.read for item in stored), refused, chosen.dropped, train, held_back)


def beginnings(origins: Sequence[Origin], loaded: LoadedConfig, registry: Registry) -> Iterator[str]:
    """Yield how the rows at *origins* begin."""
    config = loaded.config.data
    for sources, part in ((config.train, "train"), (config.eval, "eval")):
        if isinstance(sources, list):
            wanted = set(origins)
            found = parse_sources(sources, ("data", part), loaded, registry, wanted.__contains__, len(wanted))
            yield from (f"{row.origin}: {beginning(row.conversation)}" for source in found for row in source.rows)


def pack(prepared: Prepared, max_length: int, batch_sizes: tuple[int, int]) -> Prepared:
    """Return *prepared* with its examples in rows that they share, and tell how full these are.

    Args:
        batch_sizes: of the batches that a device trains and evaluates on, in rows.
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
        fill, avoided = packed.bins.fill, padding(packed.bins.lengths, batch_size)
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
