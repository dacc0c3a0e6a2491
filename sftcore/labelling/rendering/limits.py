"""What a rendering may use up: time, and the size of what it makes."""

from __future__ import annotations

import re
import time
from collections.abc import ItemsView, Iterable, KeysView, Mapping, Sequence, ValuesView
from typing import Any

SECONDS = 1.0
"""CPU time that one rendering may take; half of it is surely granted."""

CHARACTERS = 1 << 22
"""Length of the longest string that a template may make; its output may be four times as long."""

COPIED = 1 << 28
"""Characters that all operations of one rendering may make together."""

ITEMS = 1 << 20
"""Longest list that a template may make, and largest whole number that it may hand to a function."""

NESTED = 1 << 18
"""Values that a list or mapping may hold at any depth, counted as often as they would be printed."""

SOURCE = 1 << 17
"""Length of the longest template, in characters."""

POINTER, ITEM, TRACKED_ITEM = 8, 96, 256
"""What an item of a list weighs, in characters: one that was there before, a new one, and a new one that is tracked.
It is what they take of memory, in bytes."""

WIDE = re.compile(r"\d{5,}|\*|\{[^{}]*\{")
"""In a format string: a width of five digits, or one that comes from a value."""

PRINTING_NOTHING = frozenset(
    {
        "batch",
        "count",
        "d",
        "default",
        "first",
        "items",
        "last",
        "length",
        "list",
        "map",
        "random",
        "reject",
        "rejectattr",
        "reverse",
        "select",
        "selectattr",
        "slice",
        "sum",
    }
)
"""Filters that take lists, and turn none of them into text."""

COMPARING = frozenset({"dictsort", "groupby", "max", "min", "sort", "unique"})
"""Filters that compare the items of a list with each other, and may make a copy of each in lower case."""

SLOW = frozenset({"striptags", "title", "urlize", "wordcount", "wordwrap"})
"""Filters that take about a second for as many characters as a string may have."""

NESTING: tuple[type, ...] = (list, tuple, dict, type({}.keys()), type({}.values()), type({}.items()))
"""Types of values that hold values."""

WITH_WIDTHS = frozenset(
    {"batch", "center", "expandtabs", "indent", "ljust", "rjust", "slice", "tojson", "truncate", "wordwrap", "zfill"}
)
"""Filters and methods whose numbers say how much they print."""

SEARCHING_BACK = frozenset({"rfind", "rindex", "rpartition", "rsplit"})
"""Methods of strings that take as long as text times pattern; those that search forward do not."""

GROWING = SEARCHING_BACK | {"expandtabs", "indent", "round", "tojson", "translate", "urlize", "wordwrap"}
"""Filters and methods whose result can be far longer than what they are given, or that can take long."""


class LimitError(Exception):
    """A template used more than it may."""


class Meter:
    """What the rendering at work has used up."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin to count anew."""
        self._steps = 0
        self._copied = 0
        self._until = time.monotonic() + SECONDS / 2
        self._limit: float | None = None

    def step(self) -> None:
        """Count one step of a loop, or one call.

        Raises:
            LimitError: the time is up.
        """
        self._steps += 1
        if not self._steps & 7 and time.monotonic() > self._until:
            self._check_time()

    def spend(self, length: int, limit: int = CHARACTERS) -> None:
        """Count *length* characters or items that are about to be made.

        Raises:
            LimitError: too many at once, or in all.
        """
        self._copied += length
        if length > limit or self._copied > COPIED:
            raise LimitError("the chat template makes texts or lists beyond every measure")
        if length > 1 << 16 and time.monotonic() > self._until:
            self._check_time()

    def _check_time(self) -> None:
        """Check the CPU time, which takes long to ask for, and so is asked only once the clock gives reason to."""
        now = time.thread_time()
        if self._limit is None:
            self._limit = now + SECONDS / 2
        elif now > self._limit:
            raise LimitError(f"the chat template ran for more than {SECONDS:g} s of CPU time")

    def look(self, length: int, limit: int = CHARACTERS) -> None:
        """Bound *length* characters or items that are about to be looked at, not made.

        Raises:
            LimitError: too many at once, or the time is up.
        """
        self.spend(length, limit)
        self._copied -= length

    def arguments(self, values: Iterable[object], printed: bool = True, widths: bool = False) -> None:
        """Check what is handed to a filter or method: lists that it may print, and numbers if they are *widths*.

        Raises:
            LimitError: a number, or a nested list, that could blow up the result.
        """
        for value in values:
            kind = type(value)
            if widths and kind is int:
                assert isinstance(value, int)
                if not -ITEMS <= value <= ITEMS:
                    raise LimitError(f"the chat template asks for {value:.3g} of something")
            elif printed and kind in NESTING:
                self.spend(size_of(value))


def size_of(value: object) -> int:
    """Return the number of characters and values nested in *value*, counted as often as they would be printed."""
    size = nodes_seen = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        nodes_seen += 1
        size += len(item) if isinstance(item, str) else 1
        if size > CHARACTERS or nodes_seen > NESTED or len(waiting) > CHARACTERS:
            return CHARACTERS + 1
        if isinstance(item, (list, tuple, KeysView, ValuesView, ItemsView)):
            waiting.extend(item)
        elif isinstance(item, Mapping):
            waiting.extend(item.keys())
            waiting.extend(item.values())
    return size


def bound_growth(meter: Meter, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Check the arguments of a filter or method whose result can be far longer than they are.

    Raises:
        LimitError: it would be too long.
    """
    text = args[0] if args and isinstance(args[0], str) else ""
    further = [*args[1:], *kwargs.values()]
    numbers = [value for value in further if isinstance(value, int)]
    texts = [len(value) for value in further if isinstance(value, str)]
    if name == "indent":
        meter.spend(len(text) + (text.count("\n") + 1) * max([4, *numbers, *texts]))
    elif name == "wordwrap":
        meter.spend(len(text) * max([1, *texts]))
        meter.look(64 * (len(text) // max([1, *numbers[:1]]) + text.count("\n")))  # each line takes 10 microseconds
    elif name == "urlize":
        lists = [len(value) for value in further if isinstance(value, (list, tuple))]
        meter.spend(len(text) + len(text.split()) * (5 * sum(texts) + sum(lists)))
    elif name == "expandtabs":
        meter.spend(len(text) * max([8, *numbers]))
    elif name == "translate":
        tables = [table for table in further if isinstance(table, Mapping)]
        meter.spend(len(text) * max([1, *(len(str(item)) for table in tables for item in table.values())]))
    elif name in SEARCHING_BACK:
        meter.look(len(text) * max([1, *texts]), COPIED)
    elif name == "tojson" and max([0, *numbers, *texts, size_of(further) - len(further) - 1]) > 64:
        raise LimitError("the chat template indents or separates JSON beyond every measure")
    elif name == "round" and max([0, *map(abs, numbers)]) > 64:
        raise LimitError("the chat template rounds beyond every measure")
