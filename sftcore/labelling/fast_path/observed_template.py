"""A chat template that records what it finds out about the contents of messages; see docs/design.md.

:class:`ObservedText` records operators and methods, :class:`ObservingSandbox` everything that may read a string
without calling its methods: functions, filters, tests, formats and ``in``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, cast

from jinja2 import Undefined, nodes
from jinja2.runtime import Macro
from markupsafe import Markup

from sftcore.labelling.rendering import environment
from sftcore.labelling.rendering.provenance import CONTENT, Tracked, runs_of, tag_of, tracked
from sftcore.labelling.rendering.renderer import ChatTemplate, Rendering, compile_template
from sftcore.labelling.rendering.sandbox import TracingSandbox

_TEXT_METHODS = frozenset({"endswith", "lstrip", "rstrip", "split", "startswith", "strip"})
"""Methods that :class:`ObservedText` records itself."""

_TEXT_FILTERS = frozenset({"d", "default", "string", "trim"})
"""Filters that return a string as it is, or trimmed."""

_LIST_FILTERS = frozenset({"count", "first", "items", "join", "last", "length", "list", "map", "reverse"}) | {
    *("reject", "rejectattr", "select", "selectattr")
}
"""Filters that do not inspect the items of a list or mapping."""

_TYPE_TESTS = frozenset({"boolean", "callable", "defined", "false", "float", "integer", "iterable", "mapping"}) | {
    *(str(None).lower(), "number", "sequence", "string", "true", "undefined")
}
"""Tests with the same outcome for all strings."""


class Observations:
    """What a template found out about contents.

    Attributes:
        words: strings that were looked for in a content.
        inspected: whether anything else was done with a content whose outcome may differ between contents.
        renderings: what was traced.
    """

    def __init__(self) -> None:
        self.words: set[str] = set()
        self.inspected = False
        self.renderings: list[Rendering] = []


class ObservedText(Tracked):
    """Text that holds contents, none of them blank, and records how it is used.

    Attributes:
        is_content: whether it is one content, trimmed or not, and nothing else.
    """

    __slots__ = ("_observations", "is_content")
    _observations: Observations
    is_content: bool

    def look_for(self, words: object) -> None:
        """Record that *words* are looked for."""
        if self.is_content and isinstance(words, str) and not isinstance(words, ObservedText):
            self._observations.words.add(str.__str__(words))
        else:
            self.inspect()

    def inspect(self) -> None:
        """Record an inspection."""
        self._observations.inspected = True

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str) and other.strip():
            self.look_for(other)
        return str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def split(self, sep: str | None = None, maxsplit: Any = -1) -> list[str]:
        self.look_for(sep)
        parts = str.split(self, sep, maxsplit)
        return [self] if len(parts) == 1 else parts

    def __add__(self, other: str) -> str:
        return _observed_join(super().__add__(other), (self, other))

    def __radd__(self, other: str) -> str:
        return _observed_join(super().__radd__(other), (self, other))


def _observed(text: str, observations: Observations, is_content: bool) -> ObservedText:
    observed = str.__new__(ObservedText, text)
    observed._runs, observed._observations, observed.is_content = runs_of(text), observations, is_content
    return observed


def _observed_join(text: str, parts: Iterable[object]) -> str:
    """*text*, which was joined of *parts*, observed if one of them is."""
    for part in parts:
        if isinstance(part, ObservedText):
            return _observed(text, part._observations, part.is_content and len(part) == len(text))
    return text


def _inspecting(name: str) -> Callable[..., Any]:
    def method(self: ObservedText, *args: Any) -> Any:
        self.inspect()
        return getattr(str, name)(self, *args)

    return method


def _searching(name: str) -> Callable[..., bool]:
    def method(self: ObservedText, words: Any, *bounds: Any) -> bool:
        self.look_for(bounds or words)
        return bool(getattr(str, name)(self, words, *bounds))

    return method


def _trimming(name: str) -> Callable[..., str]:
    def method(self: ObservedText, chars: str | None = None, /) -> str:
        if chars not in (None, "\n"):
            self.inspect()
        return _observed(getattr(Tracked, name)(self, chars), self._observations, self.is_content)

    return method


for _name in ("format", "ge", "getitem", "gt", "hash", "iter", "le", "lt", "mod", "mul", "repr", "rmod", "rmul"):
    setattr(ObservedText, f"__{_name}__", _inspecting(f"__{_name}__"))
for _name in ("__contains__", "endswith", "startswith"):
    setattr(ObservedText, _name, _searching(_name))
for _name in ("lstrip", "rstrip", "strip"):
    setattr(ObservedText, _name, _trimming(_name))


class ObservingSandbox(TracingSandbox):
    """Renders :class:`ObservedText`; whatever gets one counts as an inspection, unless it is known not to be."""

    def __init__(self) -> None:
        super().__init__()
        self.escapes = False  # whether it makes Markup, whose methods read a content without a record
        self.observations = Observations()
        filters = {**self.filters, "_sought": lambda value: value}
        self.filters = {name: self._observed_filter(name, function) for name, function in filters.items()}
        tests = cast("dict[str, Callable[..., Any]]", self.tests)
        self.tests = {name: self._observed_test(name, test) for name, test in tests.items()}

    def parse(self, source: str, name: str | None = None, filename: str | None = None) -> nodes.Template:
        """Parse *source*; the left side of ``in`` passes a filter, since a plain string calls no method of it."""
        tree = super().parse(source, name, filename)
        self.escapes = self.escapes or tree.find(nodes.ScopedEvalContextModifier) is not None
        for comparison in tree.find_all(nodes.Compare):
            left: Any = comparison
            for operand in comparison.ops:
                if operand.op in ("in", "notin"):
                    left.expr = nodes.Filter(left.expr, "_sought", [], [], None, None)
                left = operand
        return tree

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(function, "__self__", None)
        if not (
            isinstance(function, Macro)
            or function in (dict, environment.Namespace)
            or owner is dict
            or isinstance(owner, (ObservedText, dict, ObservingSandbox))
            or (isinstance(owner, str) and function.__name__ == "join")
        ):
            self._inspect(*args, *(value for name, value in kwargs.items() if not name.startswith("_")))
        return super().call(context, function, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator != "+":
            self._inspect(left, right)
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, ObservedText) and attribute not in _TEXT_METHODS:
            obj.inspect()
        return super().getattr(obj, attribute)

    def _joined(self, parts: Iterable[str], separator: str = "") -> str:
        parts = list(parts)
        return _observed_join(super()._joined(parts, separator), parts)

    def _inspect(self, *values: object) -> None:
        """Record an inspection if there may be a content in *values*."""
        if any(map(_may_hold_content, values)):
            self.observations.inspected = True

    def _observed_filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        first = int(hasattr(function, "jinja_pass_arg"))  # some get the environment before all else

        @functools.wraps(function)
        def observed(*args: Any, **kwargs: Any) -> Any:
            value, *others = args[first:]
            if name not in ("d", "default"):
                self._inspect(*others, *kwargs.values())
            if name not in _TEXT_FILTERS and (name not in _LIST_FILTERS or isinstance(value, str)):
                self._inspect(value)
            result = function(*args, **kwargs)
            if isinstance(result, Markup):
                self.escapes = self.observations.inspected = True
            return result

        return observed

    def _observed_test(self, name: str, test: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(test)
        def observed(value: Any, *args: Any, **kwargs: Any) -> Any:
            if name in _TYPE_TESTS:
                return test(str.__str__(value) if isinstance(value, str) else value)
            self._inspect(value, *args, *kwargs.values())
            return test(value, *args, **kwargs)

        return observed


def _may_hold_content(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_may_hold_content, chain(value.keys(), value.values())))
    if isinstance(value, (list, tuple)):
        return any(map(_may_hold_content, value))
    return isinstance(value, ObservedText) or not isinstance(value, (str, int, float, range, type(None), Undefined))


class ObservedTemplate(ChatTemplate):
    """A chat template that renders :class:`ObservedText` in place of the content of each message."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self._sandbox = ObservingSandbox()
        self._plain, self._tracing, _ = compile_template(source, self._sandbox, self._sandbox)

    def observe(self) -> Observations:
        """Start a new record, and return it."""
        self._sandbox.observations = Observations()
        self._sandbox.observations.inspected = self._sandbox.escapes
        return self._sandbox.observations

    def render(self, messages: Sequence[Mapping[str, Any]], *args: Any, **kwargs: Any) -> str:
        return super().render(self._observed(messages), *args, **kwargs)

    def trace(self, messages: Sequence[Mapping[str, Any]], *args: Any, **kwargs: Any) -> Rendering:
        rendering = super().trace(self._observed(messages), *args, **kwargs)
        self._sandbox.observations.renderings.append(rendering)
        return rendering

    def _observed(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        observations = self._sandbox.observations
        return [
            {**message, "content": _observed(tracked(text, ((len(text), tag_of(index, CONTENT)),)), observations, True)}
            for index, message in enumerate(messages)
            for text in (message["content"],)
        ]
