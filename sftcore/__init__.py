"""sftcore: supervised fine-tuning whose every part is a plugin.

What a plugin needs is imported from here, and nothing else is public.
"""

from sftcore.core.components import KINDS, Backend, Component, Format, Method, Template, Tracker, further_options
from sftcore.core.errors import ConfigError, DataError, PluginError, RowError, SftError, json_type
from sftcore.core.hookspecs import hookimpl
from sftcore.core.types import IGNORE_INDEX, ROLES, Conversation, Example, Message, Origin, Role, Texts, role_of
from sftcore.core.version import __version__
from sftcore.runtime.launch_protocol import LaunchedProcess
from sftcore.runtime.signals import Stopped, handle_stop_signals

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
    "LaunchedProcess",
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
    "handle_stop_signals",
    "hookimpl",
    "json_type",
    "role_of",
]
