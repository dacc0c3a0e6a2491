"""Strings that remember where their characters came from.

``Tracked`` is a ``str`` that keeps a *tag* for each run of its characters: the message and field that they come from,
or that they are the template's own. Its methods return tracked strings. The result of an operation that cannot be
followed character by character (formatting, JSON) is tagged as a whole; a tag is never lost silently.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

Run = tuple[int, int]
"""A number of characters and their tag. A run of no characters marks a position."""

HEADER, CONTENT, REASONING, CALL, CALL_NAME, CALL_ID, ENTER, EXIT = range(8)
"""The lower three bits of a tag: a field of a message, or the start or end of its printed block."""

LITERAL, MIXED, GENERATION, END_GENERATION = -1, -2, -3, -4
"""Tags without a message: the template's own text, text of several origins, and ``{% generation %}`` marks."""


def tag_of(message: int, field: int) -> int:
    """The tag of *field* of the message with index *message*."""
    return message << 3 | field


def split_tag(tag: int) -> tuple[int, int]:
    """Message index and field of a *tag* that is not negative."""
    return tag >> 3, tag & 7


def runs_of(text: str) -> tuple[Run, ...]:
    """The runs of *text*; a plain string is the template's own."""
    if isinstance(text, Tracked):
        return text._runs
    return ((len(text), LITERAL),) if text else ()


def tracked(text: str, runs: tuple[Run, ...]) -> Tracked:
    """*text* with *runs*, which cover it."""
    made = str.__new__(Tracked, text)
    made._runs = runs
    return made


def mark(tag: int) -> Tracked:
    """An empty string that marks a position."""
    return tracked("", ((0, tag),))


def whole(text: str, *sources: object) -> str:
    """*text*, tagged as a whole with the message that its *sources* come from."""
    tags: set[int] = set()
    for source in sources:
        _collect(source, tags)
    if not tags:
        return text
    if len(tags) == 1:
        tag = tags.pop()
    else:
        messages = {tag >> 3 if tag >= 0 else tag for tag in tags}
        owner = messages.pop()
        fields = {tag & 7 for tag in tags}
        kind = CALL if fields <= {CALL, CALL_NAME, CALL_ID} else CONTENT
        tag = MIXED if messages or owner < 0 else tag_of(owner, kind)
    return tracked(text, ((len(text), tag),))


def blurred(text: str, *sources: object) -> str:
    """*text*, tagged as of several origins if any of its *sources* is from a message."""
    return tracked(text, ((len(text), MIXED),)) if type(whole(text, *sources)) is Tracked else text


def _collect(value: object, tags: set[int]) -> None:
    """Add the tags of all strings in *value* to *tags*."""
    if type(value) is Tracked:
        tags.update(tag for _, tag in value._runs if tag == MIXED or (tag >= 0 and tag & 7 < ENTER))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _collect(key, tags)
            _collect(item, tags)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            _collect(item, tags)


def join(parts: Iterable[str], separator: str = "") -> str:
    """``separator.join(parts)``, tracked if any of them is."""
    parts = list(parts)
    if not isinstance(separator, Tracked) and not any(isinstance(part, Tracked) for part in parts):
        return separator.join(parts)
    runs: list[Run] = []
    between = runs_of(separator)
    for index, part in enumerate(parts):
        if index:
            _extend(runs, between)
        _extend(runs, runs_of(part))
    return tracked(str.join(separator, parts), tuple(runs))


def _extend(runs: list[Run], more: Sequence[Run]) -> None:
    """Add *more* to *runs*, merging adjacent runs with the same tag."""
    if runs and more and runs[-1][1] == more[0][1] and runs[-1][0] and more[0][0]:
        runs[-1] = (runs[-1][0] + more[0][0], more[0][1])
        more = more[1:]
    runs.extend(more)


class _Walk:
    """The runs of a text, cut from left to right."""

    def __init__(self, runs: tuple[Run, ...]) -> None:
        self._runs = runs
        self._index = self._at = 0

    def cut(self, start: int, end: int) -> tuple[Run, ...]:
        """The runs of the characters from *start* to *end*, with the marks among them."""
        runs = self._runs
        if len(runs) == 1:
            return ((max(end - start, 0), runs[0][1]),)
        index, at = self._index, self._at
        while index < len(runs) and (at < start if not runs[index][0] else at + runs[index][0] <= start):
            at += runs[index][0]
            index += 1
        self._index, self._at = index, at
        kept: list[Run] = []
        while index < len(runs) and (at < end if (length := runs[index][0]) else at <= end):
            whole_run = at >= start and at + length <= end
            kept.append(runs[index] if whole_run else (min(at + length, end) - max(at, start), runs[index][1]))
            at += length
            index += 1
        return tuple(kept)


class Tracked(str):
    """A string with the origin of its characters."""

    __slots__ = ("_runs",)
    _runs: tuple[Run, ...]

    def _part(self, start: int, end: int) -> Tracked:
        return tracked(str.__getitem__(self, slice(start, end)), _Walk(self._runs).cut(start, end))

    def _parts(self, texts: Iterable[str], gap: int | None) -> list[str]:
        """*texts* as parts of this string, *gap* characters apart, or to be searched if that is None."""
        parts: list[str] = []
        walk = _Walk(self._runs)
        at = 0
        for text in texts:
            if gap is None:
                at = str.find(self, text, at)
            parts.append(tracked(text, walk.cut(at, at + len(text))))
            at += len(text) + (gap or 0)
        return parts

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> str:
        if not isinstance(other, str):
            return NotImplemented
        return tracked(str.__add__(self, other), self._runs + runs_of(other))

    def __radd__(self, other: str) -> str:
        return tracked(str.__add__(other, self), runs_of(other) + self._runs)

    def __mul__(self, times: SupportsIndex) -> str:
        times = max(operator.index(times), 0)
        runs = ((self._runs[0][0] * times, self._runs[0][1]),) if len(self._runs) == 1 and times else self._runs * times
        return tracked(str.__mul__(self, times), runs)

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> str:
        return whole(str.__mod__(self, values), self, values)

    def __rmod__(self, template: str) -> str:
        return whole(str.__mod__(template, self), self)

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        if not isinstance(key, slice):
            at = operator.index(key)
            text = str.__getitem__(self, at)
            at %= len(self)
            return tracked(text, _Walk(self._runs).cut(at, at + 1))
        start, end, step = key.indices(len(self))
        if step != 1:
            return whole(str.__getitem__(self, key), self)
        return self._part(start, max(start, end))

    def __iter__(self) -> Iterator[str]:
        walk = _Walk(self._runs)
        return (tracked(letter, walk.cut(at, at + 1)) for at, letter in enumerate(str.__iter__(self)))

    def strip(self, chars: str | None = None, /) -> str:
        start = len(self) - len(str.lstrip(self, chars))
        end = len(str.rstrip(self, chars))
        return self if (start, end) == (0, len(self)) else self._part(start, max(start, end))

    def lstrip(self, chars: str | None = None, /) -> str:
        return self._part(len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> str:
        return self._part(0, len(str.rstrip(self, chars)))

    def removeprefix(self, prefix: str, /) -> str:
        return self._part(len(prefix), len(self)) if str.startswith(self, prefix) else self

    def removesuffix(self, suffix: str, /) -> str:
        return self._part(0, len(self) - len(suffix)) if suffix and str.endswith(self, suffix) else self

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._parts(str.split(self, sep, maxsplit), None if sep is None else len(sep))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._parts(str.rsplit(self, sep, maxsplit), None if sep is None else len(sep))

    def splitlines(self, keepends: bool = False) -> list[str]:
        return self._parts(str.splitlines(self, keepends), None)

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        before, found, after = self._parts(str.partition(self, sep), 0)
        return before, found, after

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        before, found, after = self._parts(str.rpartition(self, sep), 0)
        return before, found, after

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        if not old:
            return whole(str.replace(self, old, new, count), self, new)
        if old not in self:
            return self
        runs: list[Run] = []
        walk = _Walk(self._runs)
        at = 0
        for index, text in enumerate(str.split(self, old, count)):
            if index:
                if type(new) is Tracked:
                    _extend(runs, new._runs)
                elif new:  # a replacement belongs where the replaced text did
                    _extend(runs, [(len(new), next(tag for length, tag in walk.cut(at, at + 1) if length))])
                at += len(old)
            _extend(runs, walk.cut(at, at + len(text)))
            at += len(text)
        return tracked(str.replace(self, old, new, count), tuple(runs))

    def join(self, parts: Iterable[str], /) -> str:
        return join(parts, self)


def _method(name: str, by_character: bool) -> Callable[..., str]:
    """The method *name*; *by_character* if it changes characters one by one, unless their number changes."""
    plain = getattr(str, name)

    def method(self: Tracked, *args: Any, **kwargs: Any) -> str:
        text = plain(self, *args, **kwargs)
        is_followed = by_character and len(text) == len(self)
        return tracked(text, self._runs) if is_followed else whole(text, self, args, kwargs)

    method.__name__ = name
    return method


for _name in ("upper", "lower", "title", "capitalize", "swapcase", "casefold"):
    setattr(Tracked, _name, _method(_name, by_character=True))
for _name in ("expandtabs", "translate", "ljust", "rjust", "center", "zfill"):
    setattr(Tracked, _name, _method(_name, by_character=False))
