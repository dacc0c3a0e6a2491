"""Errors a user can cause: each is one clear message and an exit code, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SftError(Exception):
    """Something the user can mend. ``str(error)`` says what, where, and what to do."""

    exit_code = 2


class RankError(SftError):
    """Another process of the run has ended, or cannot be reached any more."""

    exit_code = 1


class ConfigError(SftError):
    """The configuration, or an option of a component, is wrong."""


class FieldError(ValueError):
    """The value of one field of a dataclass fails a check; whoever fills the dataclass adds the place."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field


class PluginError(SftError):
    """A plugin is missing, broken, or its name is ambiguous."""


class DataError(SftError):
    """A data source cannot be used: unreadable, of no known format, or without trainable rows."""


class RowError(SftError):
    """One row cannot be used. Raised by formats and by labelling; the core adds file and line."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest of *choices*, or an empty string."""
    close = difflib.get_close_matches(str(word), [str(choice) for choice in choices], n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def json_type(value: object) -> str:
    """Return how JSON calls the type of *value*: ``"a string"``, ``"null"``, ..."""
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
