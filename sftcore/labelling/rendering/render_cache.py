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
from jinja2.utils import missing

from sftcore.labelling.rendering.cached_loops import LENGTH, Guarded, Remembered
from sftcore.labelling.rendering.environment import Namespace
from sftcore.labelling.rendering.limits import Meter
from sftcore.labelling.rendering.message_view import Messages, Watch
from sftcore.labelling.rendering.provenance import Tracked, join

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


class _Link(NamedTuple):
    """What a loop printed for a message, and whether that was the last one."""

    message: int
    last: bool
    iteration: _Iteration


class _Open(NamedTuple):
    """An iteration that is at work."""

    loop: int
    message: int
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
        loops: those that ask.
        messages: the whole conversation, as every rendering gets it.
        known: further values that every rendering gets.
        skips: whether a loop may go on at once with the first message that is not remembered.
    """

    def __init__(
        self,
        loops: Sequence[Remembered],
        messages: Sequence[Mapping[str, Any]],
        known: Sequence[Any],
        skips: bool = False,
    ) -> None:
        self._loops = loops
        self._messages = messages
        self._skips = skips
        self._lines: dict[object, list[_Link]] = {}
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
        self._line: dict[int, list[_Link] | None] = {}
        self.missed = True

    def recall(self, message: object, loop: int, context: Any, attributes: int, *values: Any) -> str:
        """Return what *loop* prints for *message*, if that is known; else "", and :attr:`missed` is set.

        At the first message it may be what is printed for many; then the loop goes on behind these.

        Args:
            context: the ``loop`` of the template, if it reads any attribute of it.
            values: what the loop reads: so many *attributes* of ``loop``, and the values of names.
        """
        self._meter.step()
        if self._open is not None:  # it was never kept
            self._line[self._open.loop] = None
        self._open, self.missed = None, True
        index = self._index.get(id(message))
        if index is None:
            self._line[loop] = None
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
        if self._outside[loop] is None:
            self._line[loop] = None
            return ""
        if loop not in self._line and (text := self._line_from(loop, index, context, spaces)) is not None:
            return text
        key = loop, index, of_loop, self._outside[loop], spaces
        for found in self._kept.get(key, ()):
            if self._holds(found):
                self._link(loop, index, found)
                return self._replay(found)
        self._watch.forget()
        before = [(at, dict(_attributes(value))) for at, value in enumerate(values) if type(value) is Namespace]
        self._open = _Open(loop, index, key, len(self._texts), [], before, self._watch.loops)
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
        line, self._line[done.loop] = self._line[done.loop], None
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
        self._line[done.loop] = line
        self._link(done.loop, done.message, found)
        return ""

    def _link(self, loop: int, index: int, found: _Iteration) -> None:
        if (line := self._line.get(loop)) is not None:
            line.append(_Link(index, index == self._count - 1, found))

    def _line_from(self, loop: int, index: int, context: Any, spaces: object) -> str | None:
        """Begin the line of a loop, and return what it prints for the messages that are remembered, if several are."""
        start = loop, index, self._outside[loop], spaces
        known = self._lines.get(start, [])
        line: list[_Link] = []
        self._line[loop], self._lines[start] = line, line
        if not self._skips or not self._loops[loop].forward:
            return None
        for link in known:
            if link.last != (link.message == self._count - 1) or not self._holds(link.iteration):
                break
            line.append(link)
        if len(line) < 2 or not self._skip_to(index + len(line), index, context):
            line.clear()
            return None
        return "".join([self._replay(link.iteration) for link in line])

    def _skip_to(self, target: int, index: int, context: Any) -> bool:
        """Let the loop that is at message *index* go on with message *target*; tell whether it can."""
        this, at = self._watch.stepped
        if at != index:
            if at != index + 1 or context is None or context._after is missing:
                return False
            context._after = missing  # it has looked at the next one
        self._watch.skip = this, target
        if context is not None:
            context.index0 += target - index - 1
            context._before, context._current = self._messages[target - 2], self._messages[target - 1]
        return True

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
        guarded = self._loops[loop].guarded
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
