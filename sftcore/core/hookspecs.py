"""The hooks that a plugin may implement; docs/plugins.md has an example of each.

Every hook takes no argument and returns a mapping from component name to *target*: the class, or better
``"package.module:Class"``, which is imported only when a run selects the component. A format or backend may have a
spec in place of the target, which adds the data that sftcore needs before it selects one. All hook modules are
imported by every command, so they should import nothing heavy.
"""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from sftcore.core.components import Backend, Format, Method, Template, Tracker

PROJECT = "sftcore"
"""The pluggy project name, and the entry-point group of hook modules."""

TEMPLATE_GROUP = "sftcore.templates"
"""The entry-point group of packages that hold template files (``*.json``, ``*.jinja``) and no code."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True)
class FormatSpec:
    """A format, with the keys by which ``format: auto`` recognises its rows; without keys it is never chosen."""

    target: str | type[Format]
    keys: Sequence[str] = ()
    """Keys that every row has."""
    without: Sequence[str] = ()
    """Keys that no row has; they tell the format from another one with more keys."""
    synonyms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What data may call some keys; where no format fits, ``columns`` is proposed by these."""

    def __post_init__(self) -> None:
        _check_strings(keys=self.keys, without=self.without)

    def fits(self, row: Mapping[object, object]) -> bool:
        """Whether *row* has the keys of this format."""
        return bool(self.keys) and row.keys() >= {*self.keys} and row.keys().isdisjoint(self.without)


@dataclass(frozen=True)
class BackendSpec:
    """A backend, with what the command line and ``backend: auto`` need to know of it."""

    target: str | type[Backend]
    environment: Sequence[Mapping[str, bool]] = ()
    """How to recognise a process that its launcher has started: each mapping names environment variables that are set
    (true) or not set (false). ``backend: auto`` selects the backend where one of the mappings holds."""
    training_args: Sequence[str] = ()
    """Training arguments that the backend sets itself; elsewhere they are an error."""
    file_option: str | None = None
    """Option that ``sft run --NAME FILE`` sets, where NAME is the name of the backend."""

    def __post_init__(self) -> None:
        _check_strings(training_args=self.training_args)

    def has_launched(self, environ: Mapping[str, str]) -> bool:
        """Whether a process with the variables *environ* was started by the launcher of this backend."""
        return any(all((name in environ) is given for name, given in one.items()) for one in self.environment)


def _check_strings(**fields: Sequence[str]) -> None:
    for name, value in fields.items():
        if isinstance(value, str):  # a sequence too, of its letters
            raise TypeError(f"{name} must be a list of strings, not {value!r}")


@hookspec
def register_formats() -> Mapping[str, str | type[Format] | FormatSpec]:
    """Data formats: how a row becomes a conversation."""


@hookspec
def register_templates() -> Mapping[str, str | type[Template]]:
    """Chat templates that need code; a template that is only a file needs no hook."""


@hookspec
def register_methods() -> Mapping[str, str | type[Method]]:
    """Fine-tuning methods: which weights are trained."""


@hookspec
def register_trackers() -> Mapping[str, str | type[Tracker]]:
    """Experiment trackers."""


@hookspec
def register_backends() -> Mapping[str, str | type[Backend] | BackendSpec]:
    """Distributed backends."""
