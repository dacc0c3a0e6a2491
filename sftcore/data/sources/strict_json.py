"""JSON that is read strictly: no key stands twice in an object, and each number is finite."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

loads: Callable[[bytes], Any] | None
try:
    from orjson import loads
except ImportError:
    loads = None

UNSURE = object()
"""In place of what a line says."""

CONTAINERS = 500
"""How many lists and objects a line may have, and so how deeply it may be nested, for ``orjson`` to be believed."""


DEEPEST = 500
"""How deeply a line may be nested: less than any stack allows, so that it does not depend on who reads it."""

_OUTSIDE_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


def _depth(line: bytes) -> int:
    """Return how deeply *line* is nested."""
    depth = deepest = 0
    for found in _OUTSIDE_STRINGS.finditer(line):
        depth += (found[0] in b"[{") - (found[0] in b"]}")
        deepest = max(deepest, depth)
    return deepest


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice in an object")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON")


def _finite(text: str) -> float:
    return number if math.isfinite(number := float(text)) else _no_number(text)


STRICT = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite)
"""What says how a line is read."""


def decode(line: bytes) -> Any:
    """Return what the text *line* says, as :data:`STRICT` does.

    Raises:
        ValueError, RecursionError: it is no strict JSON; :func:`reason_of` says why.
    """
    found = quickly(line) if loads is not None else UNSURE
    if found is not UNSURE:  # and so of few containers
        return found
    if line.count(b"[") + line.count(b"{") > DEEPEST and _depth(line) > DEEPEST:
        raise RecursionError
    return STRICT.decode(line.decode())


def quickly(line: bytes) -> Any:
    r"""Return what *line* says by ``orjson``; ``UNSURE`` if it is not shown that the strict decoder says the same.

    Of an object with a key that stands twice ``orjson`` keeps the last. Then what it returns has fewer strings than
    *line*, where each has two quotes. All other quotes are escaped, and there are as many of these as of ``\"``, unless
    a backslash before a quote is itself escaped.
    """
    assert loads is not None
    try:
        found = loads(line)
    except ValueError:
        return UNSURE
    own = 2 * _strings(found)
    quotes = line.count(b'"')
    if quotes == own or (quotes - line.count(b'\\"') == own and b'\\\\"' not in line):
        return found
    return UNSURE


def _strings(found: object) -> int:
    """Return how many strings are in *found*; -1 if it has what ``orjson`` may read otherwise, or too much."""
    strings = 0
    containers: list[Any] = [[found]]
    for container in containers:
        if type(container) is dict:
            strings += len(container)
            container = container.values()
        for value in container:
            kind = type(value)
            if kind is str:
                strings += 1
            elif kind is dict or kind is list:
                containers.append(value)
            elif kind is float:  # it may have been an integer of more than 64 bits
                return -1
    return strings if len(containers) <= CONTAINERS else -1


def reason_of(error: ValueError | RecursionError) -> str:
    """Return what *error*, raised by :func:`decode` or :data:`STRICT`, says of the text."""
    if isinstance(error, UnicodeDecodeError):
        return f"not valid UTF-8: {error.reason} at byte {error.start + 1}"
    if isinstance(error, RecursionError):
        return "not valid JSON: nested too deeply"
    if not isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error}"
    line = f"line {error.lineno}, " if error.lineno > 1 else ""  # each row of .jsonl is its first line
    return f"not valid JSON: {error.msg} at {line}column {error.colno}"
