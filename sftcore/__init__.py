"""sftcore: supervised fine-tuning whose every part is a plugin.

What a plugin needs is imported from here, and nothing else is public.
"""

from sftcore.components import KINDS, Backend, Component, Format, Method, Template, Tracker, further_options
from sftcore.errors import ConfigError, DataError, PluginError, RowError, SftError, json_type
from sftcore.hookspecs import hookimpl
from sftcore.launched import Launched
from sftcore.stopping import Stopped, listening
from sftcore.types import IGNORE_INDEX, ROLES, Conversation, Example, Message, Origin, Role, Texts, role_of
from sftcore.version import __version__

__all__ = [
    "IGNORE_INDEX",
    "KINDS",
    "ROLES",
    "Backend",
    "Component",
    "ConfigError",
    "Conversation",
    "DataError",
    "Example",
    "Format",
    "Launched",
    "Message",
    "Method",
    "Origin",
    "PluginError",
    "Role",
    "RowError",
    "SftError",
    "Stopped",
    "Template",
    "Texts",
    "Tracker",
    "__version__",
    "further_options",
    "hookimpl",
    "json_type",
    "listening",
    "role_of",
]
