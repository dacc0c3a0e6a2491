"""What the loops of a template have printed for each message, and all that they had read for it.

The prompts of a conversation are renderings of its beginnings, and most of what they print is the same. What
a loop printed for a message holds for another rendering if everything that it read is the same there:
the message, the values from outside the loop, how many messages there are, as far as it looked, and
the outcome of each comparison with a number. So a prompt costs little more than what is new in it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Undefined
from jinja2.runtime import Macro

from sftcore.supervision.environment import Namespace
from sftcore.supervision.iterations import LENGTH, Guarded
from sftcore.supervision.messages import Messages, Watch
from sftcore.supervision.meter import Meter
from sftcore.supervision.tracked import Tracked, join

NODES = 2000
"""How many values may be nested in one that is compared with another."""

KEPT = 1 << 24
"""How many characters are remembered of one conversation."""

_SCALARS = (str, int, bool, float, type(None))


class _UnseenError(Exception):
    """A value of which nobody can say whether it is the same as another one."""


class _Guard(NamedTuple):
    """The outcome of a comparison: ``holds(value, other) is outcome``."""

    guarded: Guarded
    holds: Callable[[Any, Any], Any]
    other: Any
    outcome: bool


class _Iteration(NamedTuple):
    """What a loop printed for a message.

    It holds where there are at least *least* messages, or *exactly* so many if that is not None. *loops* over
    the messages were begun within it.
    """

    least: int
    exactly: int | None
    guards: list[_Guard]
    text: str
    written: list[tuple[int, str, Any]]
    loops: int


class _Open(NamedTuple):
    """An iteration that is at work."""

    key: object
    begin: int
    guards: list[_Guard]
    before: list[tuple[int, dict[str, Any]]]
    loops: int


class Number(int):
    """A number of which the outcomes of comparisons are taken down."""

    guards: list[_Guard]
    guarded: Guarded
    shift: int

    def _compared(self, other: Any, holds: Callable[[Any, Any], Any]) -> bool:
        if type(other) is int:
            outcome = bool(holds(int(self), other))
            self.guards.append(_Guard(self.guarded, holds, other - self.shift, outcome))
            return outcome
        for number in (self, other):
            if type(number) is Number:
                number.guards.append(_Guard(number.guarded, operator.eq, int(number) - number.shift, True))
        return bool(holds(int(self), int(other) if type(other) is Number else other))

    def __eq__(self, other: object) -> bool:
        return self._compared(other, operator.eq)

    def __ne__(self, other: object) -> bool:
        return self._compared(other, operator.ne)

    def __lt__(self, other: Any) -> bool:
        return self._compared(other, operator.lt)

    def __le__(self, other: Any) -> bool:
        return self._compared(other, operator.le)

    def __gt__(self, other: Any) -> bool:
        return self._compared(other, operator.gt)

    def __ge__(self, other: Any) -> bool:
        return self._compared(other, operator.ge)

    __hash__ = int.__hash__

    def __add__(self, other: Any) -> Any:
        return _number(int(self) + other, self.guards, self.guarded, self.shift + other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return _number(int(self) - other, self.guards, self.guarded, self.shift - other)


def _number(value: int, guards: list[_Guard], guarded: Guarded, shift: int = 0) -> Number:
    made = Number(value)
    made.guards, made.guarded, made.shift = guards, guarded, shift
    return made


class Memory:
    """What the loops of one template printed for the messages of one conversation.

    Args:
        guarded: for each loop what its body reads through :meth:`guard`.
        messages: the whole conversation, as every rendering gets it.
        known: further values that every rendering gets.
    """

    def __init__(
        self, guarded: Sequence[frozenset[Guarded]], messages: Sequence[Mapping[str, Any]], known: Sequence[Any]
    ) -> None:
        self._guarded = guarded
        self._index = {id(message): index for index, message in enumerate(messages)}
        self._known = {id(value): value for value in known}
        self._kept: dict[object, list[_Iteration]] = {}
        self._room = KEPT
        self.hits = 0

    def start(self, texts: list[str], count: int, variables: Mapping[str, Any], watch: Watch, meter: Meter) -> None:
        """Begin a rendering of the first *count* messages, which prints into *texts*."""
        self._texts = texts
        self._count = count
        self._watch = watch
        self._meter = meter
        self._outside: dict[int, object] = {}
        self._variables = variables
        self._values: Sequence[Any] = ()
        self._open: _Open | None = None
        self.missed = True

    def recall(self, message: object, loop: int, attributes: int, *values: Any) -> str:
        """Return what *loop* prints for *message*, if that is known; else "", and :attr:`missed` is set.

        Args:
            values: what the loop reads: so many *attributes* of ``loop``, and the values of names.
        """
        self._meter.step()
        self._open, self.missed = None, True
        index = self._index.get(id(message))
        if index is None:
            return ""
        of_loop, values = values[:attributes], values[attributes:]
        self._values = values
        try:
            if loop not in self._outside:
                self._outside[loop] = self._frozen_outside(values)
            spaces = self._spaces(loop, values)
            of_loop = tuple(value if type(value) in (bool, int) else self._freeze(value) for value in of_loop)
        except _UnseenError:
            self._outside[loop] = None
            return ""
        if self._outside[loop] is None:
            return ""
        key = loop, index, of_loop, self._outside[loop], spaces
        for found in self._kept.get(key, ()):
            if self._holds(found):
                return self._replay(found)
        self._watch.forget()
        before = [(at, dict(_attributes(value))) for at, value in enumerate(values) if type(value) is Namespace]
        self._open = _Open(key, len(self._texts), [], before, self._watch.loops)
        return ""

    def guard(self, value: Any, position: int, what: str) -> Any:
        """Return *value*, or its length, in a form that takes down what it is compared with."""
        if what == LENGTH:
            value = _length(value)
        if self._open is None:
            return value
        guarded = position, what
        if type(value) is int:
            return _number(value, self._open.guards, guarded)
        if type(value) in _SCALARS:
            self._open.guards.append(_Guard(guarded, _is_same, value, True))
        else:
            self._open = None  # what it is compared with cannot be told
        return value

    def keep(self) -> str:
        """Remember what was printed since :meth:`recall`."""
        if (done := self._open) is None:
            return ""
        self._open = None
        written: list[tuple[int, str, Any]] = []
        try:
            for at, attributes in done.before:
                for name, value in _attributes(self._values[at]).items():
                    if name not in attributes or attributes[name] is not value:
                        self._freeze(value, of_rendering=False)
                        written.append((at, name, value))
        except _UnseenError:
            return ""
        text = join(self._texts[done.begin :])
        self._room -= len(text)
        if self._room < 0:
            return ""
        count = self._count if self._watch.seen_all else None
        found = _Iteration(self._watch.seen, count, done.guards, text, written, self._watch.loops - done.loops)
        self._kept.setdefault(done.key, []).append(found)
        return ""

    def _holds(self, found: _Iteration) -> bool:
        if found.exactly is not None and found.exactly != self._count:
            return False
        if found.least > self._count:
            return False
        return all(self._comes_out(guard) for guard in found.guards)

    def _comes_out(self, guard: _Guard) -> bool:
        """Tell whether a comparison has the same outcome now."""
        position, what = guard.guarded
        value = self._values[position]
        if what == LENGTH:
            now: Any = _length(value)
        else:
            now = _attributes(value).get(what, self) if type(value) is Namespace else self
        if type(now) is not int and guard.holds is not _is_same:
            return False
        return bool(guard.holds(now, guard.other)) is guard.outcome

    def _replay(self, found: _Iteration) -> str:
        self.missed = False
        self.hits += 1
        for at, name, value in found.written:
            _attributes(self._values[at])[name] = value
        self._watch.loops += found.loops
        self._watch.learn(self._count if found.exactly is not None else found.least - 1)
        return found.text

    def _frozen_outside(self, values: Sequence[Any]) -> object:
        """Return what identifies those of *values* that no iteration changes, and the variables of the rendering."""
        first = {id(value): at for at, value in reversed([*enumerate(values)])}
        frozen = [("space", first[id(value)]) if type(value) is Namespace else self._freeze(value) for value in values]
        return *frozen, self._freeze(self._variables)

    def _spaces(self, loop: int, values: Sequence[Any]) -> object:
        """Return what identifies the namespaces among *values* as they are now."""
        guarded = self._guarded[loop]
        frozen: list[object] = []
        for at, value in enumerate(values):
            if type(value) is Namespace:
                for name, item in _attributes(value).items():
                    if (at, name) not in guarded:
                        kind = type(item)
                        quick = kind is int or kind is str or kind is bool or item is None
                        frozen += (at, name, kind, item) if quick else (at, name, self._freeze(item))
        return tuple(frozen)

    def _freeze(self, value: Any, of_rendering: bool = True) -> object:
        """Return what is equal for equal values, and for no others.

        Args:
            of_rendering: whether the value may be one of a single rendering, such as a macro.

        Raises:
            _UnseenError: nobody can say.
        """
        self._left = NODES
        return self._frozen(value, of_rendering)

    def _frozen(self, value: Any, of_rendering: bool) -> object:
        self._left -= 1
        if self._left < 0:
            raise _UnseenError
        kind = type(value)
        if kind is str or kind is int or kind is bool or value is None:
            return kind, value
        if kind is float:
            return kind, repr(value)
        if kind is Tracked:
            return kind, str.__str__(value), value._runs
        if (index := self._index.get(id(value))) is not None:
            return "message", index
        if id(value) in self._known:
            return "known", id(value)
        if kind is list or kind is tuple:
            return kind, tuple([self._frozen(item, of_rendering) for item in value])
        if isinstance(value, dict):
            items = value.items()
            return "mapping", tuple(
                [(self._frozen(key, of_rendering), self._frozen(item, of_rendering)) for key, item in items]
            )
        if of_rendering:
            if kind is Messages:
                return "messages", value._offset
            if isinstance(value, Undefined):
                return ("undefined",)
            if kind is Macro and value.name is not None:  # there is one of each name
                return kind, value.name
        raise _UnseenError


def unguarded(value: Any, what: str) -> Any:
    """Return *value*, or its length, where no memory is at work."""
    return len(value) if what == LENGTH else value


def _length(value: Any) -> int:
    return value._length() if type(value) is Messages else len(value)


def _attributes(space: Any) -> dict[str, Any]:
    attributes: dict[str, Any] = space._Namespace__attrs
    return attributes


def _is_same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and value == other
