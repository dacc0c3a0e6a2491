"""Supervised fine-tuning of language models, every part a plugin.

This is what a plugin imports, together with :mod:`sftcore.rows` (the fields of a row), :mod:`sftcore.launching`
(processes) and :mod:`sftcore.testing` (checks of a plugin's classes). Everything else is internal.
"""

from sftcore.core.components import Backend, Format, Method, Template, Tracker, further_options
from sftcore.core.errors import ConfigError, RowError, SftError
from sftcore.core.hookspecs import BackendSpec, FormatSpec, hookimpl
from sftcore.core.types import Conversation, Message, Role
from sftcore.core.version import __version__

__all__ = [
    "Backend",
    "BackendSpec",
    "ConfigError",
    "Conversation",
    "Format",
    "FormatSpec",
    "Message",
    "Method",
    "Role",
    "RowError",
    "SftError",
    "Template",
    "Tracker",
    "__version__",
    "further_options",
    "hookimpl",
]
