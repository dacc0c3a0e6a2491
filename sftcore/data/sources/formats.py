"""From rows to conversations: the columns and the format of a source, and the rows that it rejects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from sftcore.config.document import Keys, dotted
from sftcore.config.loader import LoadedConfig, load_format
from sftcore.config.schema import AUTO, SourceConfig
from sftcore.core.components import Format
from sftcore.core.errors import DataError, RowError
from sftcore.core.hookspecs import FormatSpec
from sftcore.core.registry import Entry, Registry
from sftcore.core.types import Conversation
from sftcore.data.row_types import Origin
from sftcore.data.sources.content_key import content_key
from sftcore.data.sources.readers import SourceRow
from sftcore.data.sources.rejected import RejectedRow, not_an_object, rejected_rows
from sftcore.data.sources.renaming import OPTIONS, missing_names, propose_columns, rename
from sftcore.data.sources.row_fields import read_conversation
from sftcore.data.sources.source_rows import SourceRows
from sftcore.data.sources.unread import check_unread, keys_of, unread_keys
from sftcore.labelling import Policy

SAMPLE = 50  # how many rows ``format: auto`` looks at; those that are not a mapping do not count
UNKNOWN = "unknown (auto)"  # the format of a source in which no row could be read


class ParsedRow(NamedTuple):
    """A conversation and where its row stands; rows of one content have one ``key``."""

    conversation: Conversation
    origin: Origin
    key: bytes = b""


class DataSource(NamedTuple):
    """A source of the configuration, and how its rows become conversations."""

    config: SourceConfig
    place: Keys  # in the configuration
    rows: SourceRows
    format_name: str  # says so if the format was detected
    format: Format
    policy: Policy

    def parse(
        self, rows: Iterable[SourceRow], rejected: list[RejectedRow], columns: dict[str, None], unread: Counter[str]
    ) -> Iterator[ParsedRow]:
        """Yield the conversations of *rows*.

        Malformed rows are added to *rejected*, names of columns to *columns*, and keys that nothing reads to *unread*.
        """
        keys = None if self.policy.unread == "ignore" else keys_of(self.format)
        for origin, row in rows:
            if type(row) is not dict and not isinstance(row, Mapping):
                rejected.append(not_an_object(origin, row))
                continue
            try:
                renamed = rename(row, self.config, columns)
                conversation = read_conversation(self.format, renamed)
                if keys is not None and (beside := unread_keys(renamed, conversation, keys)):
                    check_unread(beside, self.policy.unread)
                    unread.update(beside)
                parsed = ParsedRow(conversation, origin, content_key(conversation))
            except RowError as error:
                rejected.append(RejectedRow.for_reason(origin, str(error), row))
            except RecursionError:
                rejected.append(RejectedRow.for_reason(origin, "is nested too deeply", row))
            except MemoryError:  # says nothing about the row
                raise
            except Exception as error:  # a plugin may fail in any way; the row is named all the same
                reason = f"the format {type(self.format).__name__} failed: {type(error).__name__}: {error}"
                rejected.append(RejectedRow.for_reason(origin, reason, row))
            else:
                yield parsed

    def parse_all(self) -> Iterator[tuple[ParsedRow, Policy]]:
        """Yield the conversations of all rows but the bad ones, with the policy."""
        for row in self.parse(self.rows.decoded(), [], {}, Counter()):
            yield row, self.policy

    def check_columns(self, seen: Iterable[str], loaded: LoadedConfig, rows: str = "row") -> None:
        """Check that each name that is renamed is among *seen*, those that *rows*, as the message calls them, had.

        Raises:
            ConfigError: one is not.
        """
        for option, name, names in missing_names(self.config, seen):
            problem = f"no {rows} of {self.config.path} has this {OPTIONS[option]}; there are: {names}"
            raise loaded.document.error((*self.keys(loaded), option, name), problem)

    def keys(self, loaded: LoadedConfig) -> Keys:
        """The keys in the document of *loaded* at which the source stands: without a number, if it is the only one."""
        listed = isinstance(loaded.document.data["data"][self.place[1]], list)
        return self.place if listed else self.place[:-1]


def open_source(config: SourceConfig, place: Keys, loaded: LoadedConfig, registry: Registry) -> DataSource:
    """The source *config*, which stands at *place* of the configuration; its format is detected if it is ``auto``.

    A format that is detected is added to the selected plugins.

    Raises:
        DataError: the source cannot be read, or its format cannot be detected.
        ConfigError: it renames a column that no row has.
    """
    slot, policy = dotted((*place, "format")), loaded.config.data.policy(config)
    rows = SourceRows(config, loaded.document, loaded.config.data.streaming and place[1] == "train")
    if config.format != AUTO:
        return _with_format(
            DataSource(config, place, rows, loaded.selected[slot].name, Format(), policy), config.format, loaded
        )
    columns: dict[str, None] = {}
    sample = _sampled(rows.decoded(), config, columns)
    unknown = DataSource(config, place, rows, UNKNOWN, Format(), policy)
    try:
        detected = detect_format(config.path, sample, registry)
    except DataError:
        unknown.check_columns(columns, loaded)
        raise
    if detected is None:
        return unknown
    named = unknown._replace(format_name=f"{detected.name} (auto)")
    return _with_format(named, load_format(detected.qualified, place, loaded, registry), loaded)


def _with_format(source: DataSource, form: Format, loaded: LoadedConfig) -> DataSource:
    """*source* with the format *form*.

    Raises:
        ConfigError: the format has plain texts, and the source an option for the turns of conversations.
    """
    if not form.plain_text:
        return source._replace(format=form)
    for option in ("train_on", "train_on_stop", "reasoning", "context"):
        if getattr(source.config, option) not in (None, "all"):
            problem = f"is for conversations, and the format {source.format_name} has plain texts, trained whole"
            raise loaded.document.error((*source.keys(loaded), option), problem)
    return source._replace(format=form, policy=replace(source.policy, train_on="all", plain_text=True))


class SourceSample(NamedTuple):
    """Rows of one source for a person to look at: each is in ``rows`` or in ``rejected``; and keys nothing reads."""

    source: DataSource
    rows: list[ParsedRow]
    rejected: list[RejectedRow]
    unread: Counter[str]


def sample_sources(
    sources: Sequence[SourceConfig],
    keys: Keys,
    loaded: LoadedConfig,
    registry: Registry,
    wanted: Callable[[Origin], bool] | None = None,
    limit: int | None = None,
) -> list[SourceSample]:
    """Read and parse rows of *sources*, which stand at *keys* of the configuration, for a person to look at.

    Args:
        wanted: selects the rows that are parsed; by default all.
        limit: of these rows, for each source.

    Raises:
        DataError, ConfigError: as :func:`open_source`.
    """
    samples: list[SourceSample] = []
    for index, config in enumerate(sources):
        source = open_source(config, (*keys, index), loaded, registry)
        columns: dict[str, None] = {}
        rows = source.rows.decoded()
        sample = SourceSample(source, [], [], Counter())
        chosen = islice((row for row in rows if wanted(row[0])) if wanted else rows, limit)
        sample.rows.extend(source.parse(chosen, sample.rejected, columns, sample.unread))
        if wanted is None and next(rows, None) is None:  # all rows were parsed
            source.check_columns(columns, loaded)
        samples.append(sample)
    return samples


def _sampled(rows: Iterator[SourceRow], config: SourceConfig, columns: dict[str, None]) -> list[SourceRow]:
    """The first of *rows* under their new names, with as many mappings among them as ``format: auto`` looks at."""
    sample: list[SourceRow] = []
    mappings = 0
    while mappings < SAMPLE and (item := next(rows, None)) is not None:
        origin, row = item
        if isinstance(row, Mapping):
            mappings += 1
            with suppress(RowError):  # reported when the row is parsed
                row = rename(row, config, columns)
        sample.append((origin, row))
    return sample


def detect_format(path: str, sample: list[SourceRow], registry: Registry) -> Entry | None:
    """The one format whose keys the rows of *sample* have; no format is imported.

    None, if no row is a mapping: then each is a malformed row, whatever the format.

    Raises:
        DataError: none or several fit; the message names rows and the keys of all formats.
    """
    specs = {
        entry.qualified if registry.is_ambiguous(entry) else entry.name: (entry, spec)
        for entry, spec in registry.specs(FormatSpec)
    }
    rows = [(origin, row) for origin, row in sample if isinstance(row, Mapping)]
    if not sample:
        raise DataError(f"data source {path}: has no rows")
    if not rows:
        return None
    fits = {name: origin for name, (_, spec) in specs.items() for origin, row in reversed(rows) if spec.fits(row)}
    if len(fits) == 1:
        return specs[next(iter(fits))][0]
    if fits:
        shown = ", ".join(f"{name} (row {origin})" for name, origin in fits.items())
        raise DataError(f"data source {path}: several formats fit its rows: {shown}; name one with 'format'")
    if all({"role", "content"} <= row.keys() or {"from", "value"} <= row.keys() for _, row in rows):
        problem = "each row is one message, and a row must be a conversation; for one of all rows"
        raise DataError(f"data source {path}: {problem}: jq -sc '{{messages: .}}' FILE > NEW.jsonl")
    wanted = "; ".join(f"{name}: {', '.join(sorted(spec.keys))}" for name, (_, spec) in specs.items() if spec.keys)
    problems = [f"{origin}: no format fits its keys ({', '.join(map(str, row)) or 'no keys'})" for origin, row in rows]
    proposed = propose_columns(rows[0][1], [(name, spec) for name, (_, spec) in specs.items()])
    hint = f", such as {proposed}" if proposed else ""
    problem = f"{rejected_rows(problems)}\n  known formats need {wanted}"
    raise DataError(f"{problem}\n  'columns' of the source renames its columns{hint}")
