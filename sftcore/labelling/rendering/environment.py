"""Globals, filters and the extension that transformers adds to Jinja for chat templates; the output is the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.filters
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from markupsafe import Markup

from sftcore.labelling.rendering.limits import check_format, check_length
from sftcore.labelling.rendering.message_view import Messages
from sftcore.labelling.rendering.provenance import END_GENERATION, GENERATION, Tracked, mark, tracked


def raise_exception(message: str) -> None:
    """Reject a conversation, from within a template."""
    raise jinja2.TemplateError(message)


NOW = datetime.now()
"""Start of this process."""

_LONGEST_TIME = 500
"""Length of the longest format of a time, in characters."""


def strftime_now(format: str) -> str:
    """The start of this process, so that a rendering and its prompts have the same time."""
    check_length(len(format), _LONGEST_TIME)
    check_format(format)
    return NOW.strftime(format)


def tojson(
    x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """*x* as JSON, without the HTML escapes of Jinja's own filter."""
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=_as_list
    )


def _as_list(value: Any) -> Any:
    if isinstance(value, Messages):
        return list(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def pprint(value: Any) -> str:
    """*value* as Python's pretty printer formats it."""
    return jinja2.filters.do_pprint(value.copy() if isinstance(value, Messages) else value)


def title(s: Any) -> str:
    """*s* with capitalized words."""
    text = jinja2.filters.do_title(str.__str__(s) if isinstance(s, str) else s)
    return tracked(text, s._runs) if type(s) is Tracked and len(text) == len(s) else text


def safe(value: Any) -> Any:
    """*value*, marked as safe; a tracked string stays as it is, since nothing is escaped here."""
    return value if type(value) is Tracked else Markup(value)  # noqa: S704 - the plain filter does


class Namespace(jinja2.utils.Namespace):
    """``namespace(...)`` in a template, without private attributes."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        jinja2.utils.Namespace.__init__(self)
        for name, value in dict(*rest, **kwargs).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace takes no private attribute such as {name!r}")
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"  # its values may be too large to print


class Generation(jinja2.ext.Extension):
    """``{% generation %}``: prints and marks its body."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Callable[[], str]) -> str:
        return self.environment.concat([mark(GENERATION), caller(), mark(END_GENERATION)])
