"""Errors that a user can fix: each is one message and an exit code, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SftError(Exception):
    """An error that the user can fix. The message says what is wrong, where, and what to do."""

    exit_code = 2


class RankError(SftError):
    """Another process of the run has ended or does not respond."""

    exit_code = 1


class ConfigError(SftError):
    """The configuration, or an option of a component, is invalid."""


class FieldError(ValueError):
    """The value of one field of a configuration dataclass is invalid; the loader adds its place."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field


class PluginError(SftError):
    """A plugin is missing, broken, or its name is ambiguous."""


class DataError(SftError):
    """A data source cannot be used: it is unreadable, of unknown format, or has no trainable rows."""


class RowError(SftError):
    """One row cannot be used. Formats and labelling raise it; file and line are added."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest of *choices*, or an empty string if none is close."""
    close = difflib.get_close_matches(str(word), [str(choice) for choice in choices], n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def json_type(value: object) -> str:
    """Return the JSON name of the type of *value*, with its article: ``"a string"``, ``"null"``, ..."""
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
