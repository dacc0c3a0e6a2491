"""From rows to conversations: which format a source has, and every bad row told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import NamedTuple, cast

from sftcore.components import Format
from sftcore.config import AUTO, Loaded, SourceConfig
from sftcore.data.readers import Row
from sftcore.data.sources import read
from sftcore.document import Keys, dotted
from sftcore.errors import DataError, RowError, json_type
from sftcore.plugins import Entry, Registry
from sftcore.supervision import Policy
from sftcore.types import Conversation, Origin

SAMPLE = 50
"""How many rows ``format: auto`` looks at."""

SHOWN = 10
"""How many bad rows a message lists before it only counts."""


class Parsed(NamedTuple):
    """A conversation, the place of its row, and what its source says of the tokens that are trained."""

    conversation: Conversation
    origin: Origin
    policy: Policy = Policy()


class Source(NamedTuple):
    """What was read of one source.

    ``chosen`` names the format, and says so if it was found by looking at the rows.
    """

    path: str
    chosen: str
    rows: list[Parsed]


def parse_sources(
    sources: Sequence[SourceConfig],
    keys: Keys,
    loaded: Loaded,
    registry: Registry,
    wanted: Callable[[Origin], bool] | None = None,
    limit: int | None = None,
) -> list[Source]:
    """Read and parse the rows of *sources*, which stand at *keys* of the configuration.

    A format that is found by looking at the rows is added to the selected plugins.

    Args:
        wanted: which rows are parsed; by default all.
        limit: how many of these at most, of each source.

    Raises:
        DataError: one message with the first bad rows, file:line and reason of each, and their number.
    """
    parsed: list[Source] = []
    problems: list[str] = []
    for index, source in enumerate(sources):
        rows = read(source, loaded.document)
        place = dotted((*keys, index, "format"))
        if source.format == AUTO:
            sample = list(islice(rows, SAMPLE))
            entry, reader = detect(source.path, sample, registry)
            loaded.selected[place] = entry
            chosen, rows = f"{entry.name} (auto)", chain(sample, rows)
        else:
            reader = cast("Format", source.format)
            chosen = loaded.selected[place].name
        chosen_rows = islice((row for row in rows if wanted is None or wanted(row[0])), limit)
        kept = list(_parse(chosen_rows, reader, loaded.config.data.policy(source), problems))
        parsed.append(Source(source.path, chosen, kept))
    if problems:
        raise DataError(bad_rows(problems))
    return parsed


def bad_rows(problems: list[str]) -> str:
    """Return the message about *problems*, each ``file:line: reason``."""
    more = f"\n  ... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    rows = "1 row" if len(problems) == 1 else f"{len(problems)} rows"
    return f"{rows} cannot be used; mend or remove:\n  " + "\n  ".join(problems[:SHOWN]) + more


def _parse(rows: Iterable[Row], reader: Format, policy: Policy, problems: list[str]) -> Iterator[Parsed]:
    for origin, row in rows:
        if not isinstance(row, Mapping):
            problems.append(_unusable(origin, row))
        else:
            try:
                yield Parsed(reader.read(row), origin, policy)
            except RowError as error:
                problems.append(f"{origin}: {error}")
            except Exception as error:  # a plugin may fail in any way; the row is named all the same
                problems.append(f"{origin}: the format {type(reader).__name__} failed: {type(error).__name__}: {error}")


def _unusable(origin: Origin, row: object) -> str:
    """Return the problem of a row that is no mapping."""
    return f"{origin}: {row if isinstance(row, ValueError) else f'expected one JSON object, not {json_type(row)}'}"


def detect(path: str, sample: list[Row], registry: Registry) -> tuple[Entry, Format]:
    """Return the one format that rows of *sample* have: its entry, and the format with default options.

    Raises:
        DataError: none or several fit; the message names rows and what was looked for.
    """
    formats: dict[str, tuple[Entry, Format]] = {}
    for entry, reader in registry.usable("format"):
        formats[entry.qualified if registry.is_ambiguous(entry) else entry.name] = entry, cast("Format", reader)
    rows = [(origin, row) for origin, row in sample if isinstance(row, Mapping)]
    if not sample:
        raise DataError(f"data source {path}: has no rows")
    if not rows:
        raise DataError(bad_rows([_unusable(origin, row) for origin, row in sample]))
    fits = {
        name: origin for name, (_, reader) in formats.items() for origin, row in reversed(rows) if reader.matches(row)
    }
    if len(fits) == 1:
        return formats[next(iter(fits))]
    if fits:
        seen = ", ".join(f"{name} (row {origin})" for name, origin in fits.items())
        raise DataError(f"data source {path}: several formats fit its rows: {seen}; name one with 'format'")
    wanted = "; ".join(
        f"{name}: {', '.join(sorted(reader.needs))}" for name, (_, reader) in formats.items() if reader.needs
    )
    problems = [f"{origin}: no format fits its keys ({', '.join(map(str, row)) or 'no keys'})" for origin, row in rows]
    raise DataError(f"{bad_rows(problems)}\n  known formats need {wanted}")
