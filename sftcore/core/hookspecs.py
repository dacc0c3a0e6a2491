"""The hooks that a plugin may implement; docs/plugins.md has an example of each.

Every hook takes nothing and returns a mapping from component name to the class, or to
``"package.module:Class"``, which is imported only when a run selects the component: so
keep a hook module free of heavy imports.
"""

from __future__ import annotations

from collections.abc import Mapping
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


@hookspec
def register_formats() -> Mapping[str, str | type[Format]]:
    """Data formats: how a row becomes a conversation."""
    raise NotImplementedError


@hookspec
def register_templates() -> Mapping[str, str | type[Template]]:
    """Chat templates that need code; a template that is only a file needs no hook."""
    raise NotImplementedError


@hookspec
def register_methods() -> Mapping[str, str | type[Method]]:
    """Fine-tuning methods: which weights are trained."""
    raise NotImplementedError


@hookspec
def register_trackers() -> Mapping[str, str | type[Tracker]]:
    """Experiment trackers."""
    raise NotImplementedError


@hookspec
def register_backends() -> Mapping[str, str | type[Backend]]:
    """Distributed backends."""
    raise NotImplementedError
