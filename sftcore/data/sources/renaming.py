"""Other names in the data than a format reads: of columns, of keys of messages, and of roles."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sftcore.config.schema import SourceConfig
from sftcore.core.errors import RowError
from sftcore.core.hookspecs import FormatSpec
from sftcore.core.json_text import STRICT

SHOWN = 20  # how many names a message lists

MOST = 1000  # how many names are noted, beside those that are renamed

OPTIONS = {"columns": "column", "message_keys": "key of a message", "roles": "role"}
"""The options of a source that rename, and what each has names of."""

ROLE_KEYS = ("role", "from")
"""The keys under which a message may have its role."""

_MARK = "\0"  # stands before the names in messages that were seen, after that of their option


def rename(row: Mapping[str, Any], source: SourceConfig, seen: dict[str, None]) -> Mapping[str, Any]:
    """*row* with the names of its columns, and in its messages, that *source* has for them.

    The names in it are added to *seen*, until each that is renamed is among these.

    Raises:
        RowError: two of its columns, or two keys of a message, would have one name.
    """
    if names := source.columns:
        if not names.keys() <= seen.keys():
            seen.update(dict.fromkeys(map(str, row)))
        row = _renamed(row, names, "columns", "column", "the row")
    if source.message_keys or source.roles:
        seen[_MARK] = None
        row = {key: _rename_messages(value, source, seen) if key != "tools" else value for key, value in row.items()}
    return row


def _renamed(row: Mapping[str, Any], names: Mapping[str, str], option: str, thing: str, owner: str) -> dict[str, Any]:
    renamed = {names.get(key, key): value for key, value in row.items()}
    if len(renamed) != len(row):
        twice = next(new for old, new in names.items() if old in row and new in row and new not in names)
        raise RowError(f"'{option}' renames a {thing} to '{twice}', and {owner} has one of that name; rename it too")
    return renamed


def _rename_messages(value: Any, source: SourceConfig, seen: dict[str, None]) -> Any:
    """*value*, if it is not a list of messages or its JSON text; else these with other names."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        with suppress(ValueError):  # reported by the format
            value = STRICT.decode(value)
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        return value
    return [_rename_message(turn, source, seen) for turn in value]


def _rename_message(turn: Mapping[str, Any], source: SourceConfig, seen: dict[str, None]) -> dict[str, Any]:
    renamed = _renamed(turn, source.message_keys, "message_keys", "key", "a message")
    _note("message_keys", turn, source, seen)
    for key in ROLE_KEYS:
        if isinstance(role := renamed.get(key), str):
            _note("roles", [role], source, seen)
            renamed[key] = source.roles.get(role, role)
    return renamed


def _note(option: str, names: Iterable[Any], source: SourceConfig, seen: dict[str, None]) -> None:
    """Add *names* to *seen*; of too many those only that are renamed."""
    wanted = getattr(source, option)
    seen.update(dict.fromkeys(f"{option}{_MARK}{name}" for name in names if name in wanted or len(seen) < MOST))


def missing_names(source: SourceConfig, seen: Iterable[str]) -> list[tuple[str, str, str]]:
    """The names that *source* renames and that no row had: their option, and the message about what was *seen*.

    None, if there was no row.
    """
    seen = list(seen)
    found: list[tuple[str, str, str]] = []
    for option in OPTIONS:
        own = [name.removeprefix(option + _MARK) for name in seen if name.startswith(option + _MARK)]
        names = [name for name in seen if _MARK not in name] if option == "columns" else own
        found += [(option, name, _listed(names)) for name in getattr(source, option) if seen and name not in names]
    return found


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more or "not one"


def propose_columns(row: Mapping[Any, Any], specs: Sequence[tuple[str, FormatSpec]]) -> str:
    """New names for columns of *row* with which one of *specs* fits it, as YAML; '' if none does.

    Of several, those that leave the fewest columns unread, and of these the fewest.
    """
    renamed = {name: _names_for(spec, row) for name, spec in specs}
    fits = [
        (-len(spec.keys), len(renamed[name]), name)
        for name, spec in specs
        if spec.fits({renamed[name].get(key, key): value for key, value in row.items()})
    ]
    if not fits:
        return ""
    _, _, chosen = min(fits)
    quoted = {
        old if old.isidentifier() else json.dumps(old, ensure_ascii=False): new for old, new in renamed[chosen].items()
    }
    listed = ", ".join(f"{old}: {new}" for old, new in quoted.items())
    return f"columns: {{{listed}}} for the format {chosen}"


def _names_for(spec: FormatSpec, row: Mapping[Any, Any]) -> dict[Any, str]:
    """New names for columns of *row* that mean a key of *spec*, by its synonyms."""
    columns = {_plain(column): column for column in row if isinstance(column, str)}
    names: dict[Any, str] = {}
    for key in dict.fromkeys([*spec.keys, *spec.synonyms]):
        if key in row and key not in names:
            continue
        words = map(_plain, (key, *spec.synonyms.get(key, ())))
        chosen = (columns[word] for word in words if word in columns)
        if column := next((each for each in chosen if each not in names and each not in spec.keys), None):
            names[column] = key
    return names


def _plain(column: str) -> str:
    return re.sub(r"[\W_]", "", column).lower()
