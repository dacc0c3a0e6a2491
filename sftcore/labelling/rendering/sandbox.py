"""The Jinja environments that chat templates are rendered in: a plain one, and one that traces the origin of text.

Both print what transformers' own environment prints (same options, globals, filters and extensions), character by
character, and let a template reach and change nothing. The tracing one keeps the tags of
:mod:`~sftcore.labelling.rendering.provenance` strings and marks where the printing of each message begins and ends.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from string import Formatter
from typing import Any

import jinja2
import jinja2.ext
import jinja2.filters
import jinja2.utils
from jinja2.exceptions import FilterArgumentError
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment
from markupsafe import Markup

from sftcore.labelling.rendering import environment
from sftcore.labelling.rendering.block_markers import concatenations_called, with_block_markers
from sftcore.labelling.rendering.limits import check_format, check_length, check_product, check_text_call
from sftcore.labelling.rendering.message_view import Messages, TemplateMessage, message_index
from sftcore.labelling.rendering.provenance import (
    ENTER,
    EXIT,
    Tracked,
    blurred,
    join,
    mark,
    runs_of,
    tag_of,
    tracked,
    whole,
)
from sftcore.runtime.private_api import PrivateNames

_PERCENT = re.compile(r"%(?:\((\w+)\))?(.)", re.DOTALL)
_OF_DICT = frozenset(dir(dict))
_OF_LOOP = frozenset(name for name in dir(LoopContext) if not name.startswith("_"))
_OF_STR = frozenset(name for name in dir(str) if not name.startswith("_")) - {"format", "format_map"}


PRIVATE = (
    PrivateNames(
        SandboxedEnvironment,
        calls={
            "call": (),
            "call_binop": ("context", "operator", "left", "right"),
            "getattr": ("obj", "attribute"),
            "wrap_str_format": ("value",),
        },
    ),
    PrivateNames(jinja2.Environment, attributes=("concat", "finalize")),
    PrivateNames(jinja2.Template, calls={"new_context": ("vars",)}, attributes=("root_render_func",)),
    PrivateNames(jinja2.utils.Namespace, calls={"__setitem__": ("name", "value")}),
    PrivateNames(jinja2.filters, calls={"make_attrgetter": ("environment", "attribute")}),
)
"""What is used of Jinja beyond its documentation."""


class Sandbox(ImmutableSandboxedEnvironment):
    """Renders plain strings, with limits where Jinja lets its sandbox intercept an operation."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[environment.Generation, jinja2.ext.loopcontrols]
        )
        self.concat = self._joined  # type: ignore[method-assign]
        del self.globals["lipsum"]  # prints random texts
        self.globals.update(
            raise_exception=environment.raise_exception,
            strftime_now=environment.strftime_now,
            namespace=environment.Namespace,
        )
        self.filters.update(format=self._format, join=self._join, tojson=environment.tojson)
        for name in ("center", "indent", "replace"):
            self.filters[name] = _checked_filter(name, self.filters[name])

    def load(self, source: str) -> jinja2.Template:
        """Compile a template; raises ``jinja2.TemplateSyntaxError`` if *source* is not valid."""
        tree = self.parse(source)
        concatenations_called(tree)
        return self.from_string(tree)

    def concatenated(self, *values: object) -> str:
        """``a ~ b``, which compiled templates call."""
        return self._joined([str(_printable(value)) for value in values])

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(function, "__self__", None)
        if owner is self:
            return function(*args)
        if isinstance(owner, str):
            given = (value for name, value in kwargs.items() if not name.startswith("_"))  # Jinja adds its own
            check_text_call(owner, function.__name__, [*args, *given])
        return super().call(context, function, *args, **kwargs)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return super().is_safe_attribute(obj, attr, value) and (obj is not dict or attr == "fromkeys")

    def getattr(self, obj: Any, attribute: str) -> Any:
        """``obj.attribute``; a faster way for what templates read most, with the same result."""
        kind = type(obj)
        if kind is TemplateMessage or kind is dict:
            if attribute not in _OF_DICT:
                return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        elif kind is LoopContext and attribute in _OF_LOOP:
            return getattr(obj, attribute)
        elif ((kind is str or kind is Tracked) and attribute in _OF_STR) or (
            kind is environment.Namespace and not attribute.startswith("_")
        ):
            return getattr(obj, attribute, self.undefined(obj=obj, name=attribute))
        return super().getattr(obj, attribute)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            if not isinstance(left, Markup) and (parts := _percent_parts(left, right)) is not None:
                return self._joined(parts)
            check_format(left)
            return blurred(left % right, left, right)
        if operator in ("*", "**"):
            check_product(operator, left, right)
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, (str, list, tuple)):
            check_length(len(result))
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        owner = getattr(value, "__self__", None)
        if not isinstance(owner, str) or getattr(value, "__name__", "") not in ("format", "format_map"):
            return None
        plain = getattr(str.__str__(owner), value.__name__) if isinstance(owner, Tracked) else value
        wrapped = super().wrap_str_format(plain)
        assert wrapped is not None

        def method(*args: Any, **kwargs: Any) -> str:
            given = {name: item for name, item in kwargs.items() if not name.startswith("_")}  # Jinja adds its own
            fields = args[0] if value.__name__ == "format_map" and len(args) == 1 else given
            if (parts := _format_parts(owner, () if fields is not given else args, fields)) is not None:
                return self._joined([str(_printable(part)) for part in parts])
            check_format(owner)
            return blurred(wrapped(*args, **given), owner, args, given)

        return method

    def _joined(self, parts: Iterable[str], separator: str = "") -> str:
        parts = list(parts)
        check_length(sum(map(len, parts)) + len(separator) * len(parts))
        return separator.join(parts)

    def _join(self, value: Iterable[Any], d: str = "", attribute: Any = None) -> str:
        if attribute is not None:
            value = map(jinja2.filters.make_attrgetter(self, attribute), value)
        return self._joined([str(_printable(item)) for item in value], str(d))

    def _format(self, value: Any, *args: Any, **kwargs: Any) -> str:
        if args and kwargs:
            raise FilterArgumentError("can't handle positional and keyword arguments at the same time")
        return str(self.call_binop(None, "%", str(value), kwargs or args))


class TracingSandbox(Sandbox):
    """Renders :class:`Tracked` strings, and keeps their tags."""

    def __init__(self) -> None:
        super().__init__()
        self.finalize = _printable
        own = {"pprint": environment.pprint, "replace": _replace, "safe": environment.safe, "title": environment.title}
        self.filters = {name: _tagging(function) for name, function in {**self.filters, **own}.items()}

    def load(self, source: str) -> jinja2.Template:
        tree = self.parse(source)
        tree.body = with_block_markers(tree.body, [])
        concatenations_called(tree)
        return self.from_string(tree)

    def enter(self, value: object) -> str:
        """Mark where the printing of a message begins."""
        index = message_index(value)
        return "" if index is None else mark(tag_of(index, ENTER))

    def exit(self, value: object) -> str:
        """Mark where it ends."""
        index = message_index(value)
        return "" if index is None else mark(tag_of(index, EXIT))

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(function, "__self__", None)
        if not isinstance(owner, str):
            return super().call(context, function, *args, **kwargs)
        if function.__name__ == "join" and len(args) == 1:
            return self._joined(args[0], owner)
        result = super().call(context, function, *args, **kwargs)
        if type(result) is str and type(owner) is str:
            return whole(result, args, {name: value for name, value in kwargs.items() if not name.startswith("_")})
        return result

    def _joined(self, parts: Iterable[str], separator: str = "") -> str:
        parts = list(parts)
        check_length(sum(map(len, parts)) + len(separator) * len(parts))
        return join(parts, separator)


def _printable(value: Any) -> Any:
    """*value*, which is about to be printed, with the tags of what it holds."""
    if isinstance(value, str):  # nearly all are, and the check below takes longer
        return value
    return whole(str(value), value) if isinstance(value, (list, dict, tuple, Messages)) else value


def _checked_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter *function*, with a limit on the text that it makes."""
    first = int(hasattr(function, "jinja_pass_arg"))  # some get the environment before all else

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        text, *others = args[first:]
        check_text_call(str(text), name, [*others, *kwargs.values()])
        return function(*args, **kwargs)

    return checked


def _tagging(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter *function*, with a result that keeps the tags of its arguments."""

    @functools.wraps(function)
    def tagging(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        return whole(result, args, kwargs) if type(result) is str else result

    return tagging


def _replace(s: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, new = str(s), str(new)
    check_text_call(text, "replace", (old, new))
    if type(text) is str and type(new) is Tracked:
        text = tracked(text, runs_of(text))
    return text.replace(str(old), new, -1 if count is None else count)


def _percent_parts(template: str, values: Any) -> list[str] | None:
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


def _format_parts(template: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any] | None:
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
