"""Strict JSON: no key appears twice in an object, and each number is finite."""

from __future__ import annotations

import json
import math
from typing import Any

from sftcore.core.errors import RowError


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} appears twice in an object")
    return values


def _not_a_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number in JSON")


def _finite(text: str) -> float:
    return number if math.isfinite(number := float(text)) else _not_a_number(text)


STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_not_a_number, parse_float=_finite)
"""The reference for how JSON is read, that of a row and that in its texts."""


def read_json(text: str, what: str) -> Any:
    """Return the value of the JSON *text*; *what* it is begins the error.

    Raises:
        RowError: it is not valid.
    """
    try:
        return STRICT.decode(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise RowError(f"{what} is not valid JSON: {reason}") from None
