"""From rows to conversations: which format a source has, and every bad row told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, cast

from sftcore.config.document import Keys, dotted
from sftcore.config.loader import LoadedConfig, load_format
from sftcore.config.schema import AUTO, SourceConfig
from sftcore.core.components import Format
from sftcore.core.errors import DataError, RowError
from sftcore.core.hookspecs import FormatSpec
from sftcore.core.registry import Entry, Registry
from sftcore.core.types import Conversation
from sftcore.data.row_types import Origin
from sftcore.data.sources import content_key
from sftcore.data.sources.files import read
from sftcore.data.sources.readers import Row
from sftcore.data.sources.rejected import Refusal, bad_rows, no_object
from sftcore.data.sources.renaming import Columns
from sftcore.labelling import Policy

SAMPLE = 50
"""How many rows ``format: auto`` looks at; those that are no mapping do not count."""

UNKNOWN = "unknown (auto)"
"""The format of a source in which no row could be read."""


class Parsed(NamedTuple):
    """A conversation, the place of its row, and what its source says of the tokens that are trained.

    Rows of one content have one ``key``.
    """

    conversation: Conversation
    origin: Origin
    policy: Policy = Policy()
    key: bytes = b""


class Reader(NamedTuple):
    """How the rows of a source are read.

    ``chosen`` names the format, and says so if it was found by looking at the rows. ``place`` is where the source
    stands in the configuration.
    """

    chosen: str
    format: Format
    policy: Policy
    source: SourceConfig
    place: Keys

    def check_columns(self, columns: Columns, loaded: LoadedConfig, rows: str = "row") -> None:
        """Raise for a column that is renamed and that none of the *rows*, as the message calls them, has had.

        Raises:
            ConfigError: there is one.
        """
        for name, found in columns.missing():
            way = self.place if isinstance(loaded.document.data["data"][self.place[1]], list) else self.place[:-1]
            problem = f"no {rows} of {self.source.path} has this column; there are: {found}"
            raise loaded.document.error((*way, "columns", name), problem)


def reader_of(source: SourceConfig, place: Keys, loaded: LoadedConfig, registry: Registry) -> Reader:
    """Return how the rows of *source*, which stands at *place* of the configuration, are read.

    A format that is found by looking at the rows is added to the selected plugins.

    Raises:
        DataError: the source cannot be read, or its format cannot be told.
        ConfigError: it renames a column that no row has.
    """
    slot, policy = dotted((*place, "format")), loaded.config.data.policy(source)
    if source.format != AUTO:
        return Reader(loaded.selected[slot].name, cast("Format", source.format), policy, source, place)
    columns = Columns(source.columns)
    rows = read(source, loaded.document, streamed(place, loaded))
    sample = [(origin, columns.look(row)) for origin, row in _sample(rows)]
    unknown = Reader(UNKNOWN, Format(), policy, source, place)
    try:
        found = detect(source.path, sample, registry)
    except DataError:
        unknown.check_columns(columns, loaded)
        raise
    if found is None:
        return unknown
    return Reader(f"{found.name} (auto)", load_format(found.qualified, place, loaded, registry), policy, source, place)


def streamed(place: Keys, loaded: LoadedConfig) -> bool:
    """Tell whether the source at *place* of the configuration is trained as a stream."""
    return loaded.config.data.streaming and place[1] == "train"


class Source(NamedTuple):
    """What was read of one source: every row is in ``rows`` or in ``refused``."""

    path: str
    rows: list[Parsed]
    refused: list[Refusal]


def parse_sources(
    sources: Sequence[SourceConfig],
    keys: Keys,
    loaded: LoadedConfig,
    registry: Registry,
    wanted: Callable[[Origin], bool] | None = None,
    limit: int | None = None,
) -> list[Source]:
    """Read and parse rows of *sources*, which stand at *keys* of the configuration, for a person to look at.

    Args:
        wanted: which rows are parsed; by default all.
        limit: how many of these at most, of each source.

    Raises:
        DataError: a source cannot be read, or its format cannot be told.
        ConfigError: it renames a column that no row has.
    """
    parsed: list[Source] = []
    for index, source in enumerate(sources):
        reader = reader_of(source, (*keys, index), loaded, registry)
        columns = Columns(source.columns)
        rows = read(source, loaded.document, streamed(keys, loaded))
        found = Source(source.path, [], [])
        chosen = islice((row for row in rows if wanted(row[0])) if wanted else rows, limit)
        found.rows.extend(parse(chosen, reader, found.refused, columns))
        if wanted is None and next(rows, None) is None:  # all were looked at
            reader.check_columns(columns, loaded)
        parsed.append(found)
    return parsed


def _sample(rows: Iterator[Row]) -> list[Row]:
    """Return the first of *rows*, until there are as many mappings among them as ``format: auto`` looks at."""
    sample: list[Row] = []
    mappings = 0
    while mappings < SAMPLE and (following := next(rows, None)) is not None:
        sample.append(following)
        mappings += isinstance(following[1], Mapping)
    return sample


def parse(rows: Iterable[Row], reader: Reader, refused: list[Refusal], columns: Columns) -> Iterator[Parsed]:
    """Yield the conversations of *rows*; the bad ones among them are added to *refused*."""
    for origin, row in rows:
        if type(row) is not dict and not isinstance(row, Mapping):
            refused.append(no_object(origin, row))
            continue
        try:
            conversation = reader.format.read(columns.rename(row))
            parsed = Parsed(conversation, origin, reader.policy, content_key.key(conversation))
        except RowError as error:
            refused.append(Refusal.of(origin, str(error), row))
        except RecursionError:
            refused.append(Refusal.of(origin, "is nested too deeply", row))
        except MemoryError:  # says nothing of the row
            raise
        except Exception as error:  # a plugin may fail in any way; the row is named all the same
            reason = f"the format {type(reader.format).__name__} failed: {type(error).__name__}: {error}"
            refused.append(Refusal.of(origin, reason, row))
        else:
            yield parsed


def detect(path: str, sample: list[Row], registry: Registry) -> Entry | None:
    """Return the one format whose keys the rows of *sample* have; no format is imported.

    None, if no row is a mapping: then each is a bad row, whatever the format.

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
        seen = ", ".join(f"{name} (row {origin})" for name, origin in fits.items())
        raise DataError(f"data source {path}: several formats fit its rows: {seen}; name one with 'format'")
    wanted = "; ".join(f"{name}: {', '.join(sorted(spec.keys))}" for name, (_, spec) in specs.items() if spec.keys)
    problems = [f"{origin}: no format fits its keys ({', '.join(map(str, row)) or 'no keys'})" for origin, row in rows]
    raise DataError(f"{bad_rows(problems)}\n  known formats need {wanted}")
