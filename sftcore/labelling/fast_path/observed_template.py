"""A chat template that records what it finds out about the contents of messages.

Rendering is deterministic. So if a template only prints, joins and trims the contents, it treats all others alike.
Where it looks for certain words in a content, that holds for all contents without these words. Everything else that
it does with a content is recorded as an inspection: operators by :class:`ObservedText`, and functions, filters and
tests, which may read a string without calling its methods, by :class:`ObservingSandbox`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jinja2 import Undefined, nodes
from jinja2.runtime import Macro

from sftcore.labelling.rendering import environment
from sftcore.labelling.rendering.provenance import CONTENT, Tracked, tag_of
from sftcore.labelling.rendering.renderer import ChatTemplate, Rendering
from sftcore.labelling.rendering.sandbox import Sandbox

_TEXT_METHODS = frozenset({"endswith", "lstrip", "rstrip", "split", "startswith", "strip"})
"""Methods of a content that :class:`ObservedText` records itself."""

_TEXT_FILTERS = frozenset({"d", "default", "string", "trim"})
"""Filters that return a content as it is, or trimmed."""

_LIST_FILTERS = frozenset(
    {"count", "first", "items", "join", "last", "length", "list", "map", "reject", "rejectattr", "reverse"}
) | {"select", "selectattr"}
"""Filters that do not inspect the items of a list or mapping."""

_TYPE_TESTS = frozenset(
    {"boolean", "callable", "defined", "false", "float", "integer", "iterable", "mapping", str(None).lower()}
) | {"number", "sequence", "string", "true", "undefined"}
"""Tests with the same outcome for all strings."""


class Observations:
    """What a template found out about contents.

    Attributes:
        words: strings that were looked for in a content.
        inspected: whether contents were used in a way whose outcome may differ between contents without *words*.
    """

    def __init__(self) -> None:
        self.words: set[str] = set()
        self.inspected = False


class ObservedText(Tracked):
    """Text with contents in it, none of them blank; records how the template uses it.

    Attributes:
        is_content: whether it is one content, trimmed or not, and nothing else.
    """

    __slots__ = ("_observations", "is_content")
    _observations: Observations
    is_content: bool

    def like(self, text: str, is_content: bool) -> ObservedText:
        """*text*, which was made of this one, observed too."""
        return _observed(text, getattr(text, "_runs", self._runs), self._observations, is_content)

    def _look_for(self, words: object) -> None:
        """Record that *words* are looked for."""
        if self.is_content and isinstance(words, str) and not isinstance(words, ObservedText):
            self._observations.words.add(str.__str__(words))
        else:
            self._observations.inspected = True

    def __contains__(self, words: str) -> bool:
        self._look_for(words)
        return str.__contains__(self, words)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str) and other.strip():
            self._look_for(other)
        return str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def startswith(self, words: Any, *bounds: Any) -> bool:  # type: ignore[override]
        self._look_for(bounds or words)
        return str.startswith(self, words, *bounds)

    def endswith(self, words: Any, *bounds: Any) -> bool:  # type: ignore[override]
        self._look_for(bounds or words)
        return str.endswith(self, words, *bounds)

    def split(self, sep: Any = None, maxsplit: Any = -1) -> list[str]:
        self._look_for(sep)
        parts = str.split(self, sep, maxsplit)
        return [self] if len(parts) == 1 else parts

    def __add__(self, other: str) -> str:
        return _observed_join(super().__add__(other), (self, other))

    def __radd__(self, other: str) -> str:
        return _observed_join(super().__radd__(other), (self, other))


def _observed(text: str, runs: Any, observations: Observations, is_content: bool) -> ObservedText:
    observed = str.__new__(ObservedText, text)
    observed._runs, observed._observations, observed.is_content = runs, observations, is_content
    return observed


def _observed_join(text: str, parts: Iterable[object]) -> str:
    """*text*, which was joined from *parts*, observed if one of them is."""
    for part in parts:
        if isinstance(part, ObservedText):
            return part.like(text, part.is_content and len(part) == len(text))
    return text


def _recorded(name: str) -> Callable[..., Any]:
    def method(self: ObservedText, *args: Any) -> Any:
        self._observations.inspected = True
        return getattr(str, name)(self, *args)

    return method


def _trimmed(name: str) -> Callable[..., str]:
    def method(self: ObservedText, chars: str | None = None, /) -> str:
        if chars not in (None, "\n"):
            self._observations.inspected = True
        return self.like(getattr(Tracked, name)(self, chars), self.is_content)

    return method


for _name in ("format", "ge", "getitem", "gt", "hash", "iter", "le", "lt", "mod", "mul", "repr", "rmod", "rmul"):
    setattr(ObservedText, f"__{_name}__", _recorded(f"__{_name}__"))
for _name in ("lstrip", "rstrip", "strip"):
    setattr(ObservedText, _name, _trimmed(_name))


class ObservingSandbox(Sandbox):
    """Records what functions, filters and tests get of contents; those that are not known to ignore them inspect them."""

    intercepted_binops = Sandbox.intercepted_binops | {"%"}

    def __init__(self) -> None:
        super().__init__()
        self.observations = Observations()
        self.filters["_sought"] = lambda value: value
        self.filters = {name: self._observed_filter(name, function) for name, function in self.filters.items()}
        self.tests = {name: self._observed_test(name, test) for name, test in self.tests.items()}

    def _inspect(self, values: Iterable[object]) -> None:
        """Record an inspection if there may be a content in *values*."""
        if any(map(_may_hold_content, values)):
            self.observations.inspected = True

    def _observed_filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        first = int(hasattr(function, "jinja_pass_arg"))  # some get the environment before all else

        @functools.wraps(function)
        def observed(*args: Any, **kwargs: Any) -> Any:
            value, *others = args[first:]
            if name not in ("d", "default"):
                self._inspect((*others, *kwargs.values()))
            if name not in _TEXT_FILTERS and (name not in _LIST_FILTERS or isinstance(value, str)):
                self._inspect((value,))
            return function(*args, **kwargs)

        return observed

    def _observed_test(self, name: str, test: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(test)
        def observed(value: Any, *args: Any, **kwargs: Any) -> Any:
            if name in _TYPE_TESTS:
                value = str.__str__(value) if isinstance(value, str) else value
            self._inspect((value, *args, *kwargs.values()) if name not in _TYPE_TESTS else ())
            return test(value, *args, **kwargs)

        return observed

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(function, "__self__", None)
        stores = isinstance(function, (Macro, environment.Dict)) or function is environment.Namespace
        looks_up = isinstance(owner, (ObservedText, dict, environment.Dict))  # what it hashes or compares says so itself
        joins = isinstance(owner, str) and function.__name__ == "join"
        if not (stores or looks_up or joins):
            self._inspect((*args, *(value for name, value in kwargs.items() if not name.startswith("_"))))
        return super().call(context, function, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator != "+":
            self._inspect((left, right))
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, ObservedText) and attribute not in _TEXT_METHODS:
            self.observations.inspected = True
        return super().getattr(obj, attribute)

    def _joined(self, parts: Iterable[str], separator: str = "") -> str:
        parts = list(parts)
        return _observed_join(super()._joined(parts, separator), parts)

    def _marked(self, source: str) -> nodes.Template:
        """The syntax tree, in which what is sought by ``in`` passes a filter: a plain string looks at it without calling it."""
        tree = super()._marked(source)
        for comparison in tree.find_all(nodes.Compare):
            for left, operand in zip((comparison, *comparison.ops), comparison.ops):
                if operand.op in ("in", "notin"):
                    left.expr = nodes.Filter(left.expr, "_sought", [], [], None, None)
        return tree


def _may_hold_content(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_may_hold_content, (*value.keys(), *value.values())))
    if isinstance(value, (list, tuple)):
        return any(map(_may_hold_content, value))
    return isinstance(value, ObservedText) or not isinstance(value, (str, int, float, range, type(None), Undefined))


class ObservedTemplate(ChatTemplate):
    """A chat template that records what it does with the contents of messages, all of which have one."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self._sandbox = ObservingSandbox()
        self._compiled = self._sandbox.compile_template(source)

    def observe(self) -> Observations:
        """Start a new record, and return it."""
        self._sandbox.observations = Observations()
        return self._sandbox.observations

    def render(self, messages: Sequence[Mapping[str, Any]], *args: Any, **kwargs: Any) -> str:
        return super().render(self._observed(messages), *args, **kwargs)

    def trace(self, messages: Sequence[Mapping[str, Any]], *args: Any, **kwargs: Any) -> Rendering:
        return super().trace(self._observed(messages), *args, **kwargs)

    def _observed(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [
            {**message, "content": _observed(text, ((len(text), tag_of(index, CONTENT)),), self._sandbox.observations, True)}
            for index, message in enumerate(messages)
            for text in (message["content"],)
        ]
