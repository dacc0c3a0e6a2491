"""Parts of formatted strings, so that each part keeps its origin."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

_PERCENT = re.compile(r"%(?:\((\w+)\))?(.)", re.DOTALL)


def percent_parts(template: str, values: Any) -> list[str] | None:
    """Parts of ``template % values``; None if it has more than ``%s``, ``%(name)s`` and ``%%``."""
    items = list(values) if isinstance(values, tuple) else [values]
    parts: list[str] = []
    at = taken = 0
    for found in _PERCENT.finditer(template):
        name, kind = found.groups()
        parts.append(template[at : found.start()])
        at = found.end()
        if kind == "%" and name is None:
            parts.append("%")
        elif kind != "s":
            return None
        elif name is not None:
            if not isinstance(values, Mapping) or name not in values:
                return None
            parts.append(str(values[name]))
        elif taken < len(items):
            parts.append(str(items[taken]))
            taken += 1
        else:
            return None
    used_up = taken == len(items) or isinstance(values, Mapping)
    return [*parts, template[at:]] if used_up and "%" not in template[at:] else None


def format_parts(template: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any] | None:
    """Parts of ``template.format(*args, **kwargs)``; None if it has more than plain fields."""
    parts: list[Any] = []
    automatic, numbered = 0, False
    try:
        for text, name, spec, conversion in Formatter().parse(str.__str__(template)):
            parts.append(text)
            if name is None:
                continue
            if spec or conversion:
                return None
            numbered = numbered or name.isdigit()
            if not name:
                name, automatic = str(automatic), automatic + 1
            if name.isdigit():
                parts.append(args[int(name)])
            elif name.isidentifier():
                parts.append(kwargs[name])
            else:
                return None
    except (ValueError, LookupError, TypeError):
        return None
    return None if (automatic and numbered) or type(template) is not str else parts
