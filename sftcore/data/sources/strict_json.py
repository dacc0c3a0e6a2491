"""Strict JSON: no key appears twice in an object, and each number is finite."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from sftcore.core.json_text import STRICT

loads: Callable[[bytes], Any] | None
try:
    from orjson import loads
except ImportError:
    loads = None

UNSURE = object()  # in place of a value that ``orjson`` may have read differently

CONTAINERS = 500
"""How many lists and objects a line may have, and so how deeply it may be nested, for ``orjson`` to be trusted."""

MAX_DEPTH = 500
"""How deeply a line may be nested: less than any stack allows, so that it does not depend on the process."""

_OUTSIDE_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


def _depth(line: bytes) -> int:
    """How deeply *line* is nested."""
    depth = deepest = 0
    for match in _OUTSIDE_STRINGS.finditer(line):
        depth += (match[0] in b"[{") - (match[0] in b"]}")
        deepest = max(deepest, depth)
    return deepest


def decode(line: bytes) -> Any:
    """The value of *line*, as :data:`STRICT` reads it.

    Raises:
        ValueError, RecursionError: it is not strict JSON; :func:`reason_of` says why.
    """
    value = decode_fast(line) if loads is not None else UNSURE
    if value is not UNSURE:  # and so of few containers
        return value
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and _depth(line) > MAX_DEPTH:
        raise RecursionError
    return STRICT.decode(line.decode())


def decode_fast(line: bytes) -> Any:
    r"""The value that ``orjson`` reads; ``UNSURE`` unless it is certain that the strict decoder reads the same.

    Where a key appears twice in an object, ``orjson`` keeps the last. Then its value has fewer strings than *line*,
    where each has two quotes. All other quotes are escaped, and there are as many of these as of ``\"``, unless a
    backslash before a quote is itself escaped.
    """
    assert loads is not None
    try:
        value = loads(line)
    except ValueError:
        return UNSURE
    own = 2 * _count_strings(value)
    quotes = line.count(b'"')
    if quotes == own or (quotes - line.count(b'\\"') == own and b'\\\\"' not in line):
        return value
    return UNSURE


def _count_strings(root: object) -> int:
    """The number of strings in *root*; -1 if it has what ``orjson`` may read differently, or too many containers."""
    strings = 0
    containers: list[Any] = [[root]]
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
    """The reason for *error*, which :func:`decode` or :data:`STRICT` raised."""
    if isinstance(error, UnicodeDecodeError):
        return f"not valid UTF-8: {error.reason} at byte {error.start + 1}"
    if isinstance(error, RecursionError):
        return "not valid JSON: nested too deeply"
    if not isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error}"
    line = f"line {error.lineno}, " if error.lineno > 1 else ""  # each row of .jsonl is its first line
    hint = next((hint for pattern, hint in _HINTS.items() if re.match(pattern, error.doc[error.pos :])), "")
    if not hint and error.msg == "Extra data" and "\r" in error.doc[: error.pos]:
        hint = "; lines must end in a line feed, not in a carriage return"
    return f"not valid JSON: {error.msg.removesuffix(' at')} at {line}column {error.colno}{hint}"


_HINTS = {
    "\ufeff": " (a byte order mark, as where files were put together; remove it)",
    "'": "; is it printed by Python? write it with json.dumps",
    "(?:NaN|None|True|False|undefined)": "; is it printed by Python? write it with json.dumps",
}
"""What may be done about a text that is not JSON, by a pattern of where it is not."""
