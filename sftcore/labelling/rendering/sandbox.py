"""The Jinja environment that chat templates are rendered in: nothing to reach, and nothing without a limit.

It renders what transformers' own environment renders (the same options, globals, filters and
extensions), character by character. On top it keeps the tags of :mod:`~sftcore.labelling.rendering.provenance`
strings, marks where the printing of a message begins and ends, and counts what a template uses up.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, NamedTuple, cast

import jinja2
import jinja2.ext
import jinja2.filters
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.exceptions import FilterArgumentError
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sftcore.labelling.rendering import environment
from sftcore.labelling.rendering.block_markers import with_marks
from sftcore.labelling.rendering.format_strings import format_parts, percent_parts
from sftcore.labelling.rendering.limits import (
    CHARACTERS,
    COMPARING,
    COPIED,
    GROWING,
    ITEM,
    ITEMS,
    NESTED,
    NESTING,
    POINTER,
    PRINTING_NOTHING,
    SLOW,
    SOURCE,
    TRACKED_ITEM,
    WIDE,
    WITH_WIDTHS,
    LimitError,
    Meter,
    bound_growth,
    size_of,
)
from sftcore.labelling.rendering.message_view import Message, Messages, message_index
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

_SHORT = 4096
"""Strings below this length are joined without being counted: only very many of them matter, and that takes time."""

_SYNTAX: tuple[tuple[type[nodes.Node] | tuple[type[nodes.Node], ...], int, str], ...] = (
    (nodes.Node, 7000, "parts"),
    (nodes.For, 128, "loops"),
    ((nodes.Macro, nodes.CallBlock), 64, "macros"),
    ((nodes.Assign, nodes.AssignBlock), 400, "assignments"),
)
"""How much of each a template may have, about five times what any of the 300 that are known has."""

_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"

_OF_DICT = frozenset(dir(dict))
_OF_LOOP = frozenset(name for name in dir(LoopContext) if not name.startswith("_"))
_OF_STR = frozenset(name for name in dir(str) if not name.startswith("_")) - {"format", "format_map"}


_OURS = frozenset({"_enter", "_exit", "_step"})
"""Filters that stand in a syntax tree for calls of the environment; no template may use them."""


class _Generator(CodeGenerator):
    """Compiles ``a ~ b``, slices and lists to calls of the environment."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concatenated((")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write("))")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if not isinstance(node.arg, nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self.write("environment.sliced(")
        self.visit(node.node, frame)
        for bound in (node.arg.start, node.arg.stop, node.arg.step):
            self.write(", ")
            if bound is None:
                self.write("None")
            else:
                self.visit(bound, frame)
        self.write(")")

    def visit_Filter(self, node: nodes.Filter, frame: Frame) -> None:
        if node.name not in _OURS:
            super().visit_Filter(node, frame)
            return
        self.write(f"environment.{node.name[1:]}(")
        for argument in (node.node, *node.args):
            if argument is not None:
                self.visit(argument, frame)
                self.write(", ")
        self.write(")")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        self.write("(")
        left = node.expr
        if node.ops[0].op in ("in", "notin"):  # it may be hashed
            self._compared(left, frame)
        else:
            self.visit(left, frame)
        for operand in node.ops:
            searches, right = operand.op in ("in", "notin"), operand.expr
            quick = isinstance(right, nodes.Const) or (not searches and isinstance(left, nodes.Const))
            self.write(f" {operators[operand.op]} ")
            self.write("(" if quick else f"environment.{'searched' if searches else 'compared'}(")
            self.visit(right, frame)
            self.write(")")
            left = right
        self.write(")")

    def visit_Pair(self, node: nodes.Pair, frame: Frame) -> None:
        self._compared(node.key, frame)
        self.write(": ")
        self.visit(node.value, frame)

    def _compared(self, node: nodes.Node, frame: Frame) -> None:
        quick = isinstance(node, nodes.Const)
        self.write("" if quick else "environment.compared(")
        self.visit(node, frame)
        self.write("" if quick else ")")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._bounded(super().visit_List, node, frame, [*node.items])

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        self._bounded(super().visit_Tuple, node, frame, [*node.items] if node.ctx == "load" else [])

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._bounded(super().visit_Dict, node, frame, [*node.items])

    def _bounded(
        self, visit: Callable[[Any, Frame], None], node: nodes.Node, frame: Frame, items: Sequence[nodes.Node]
    ) -> None:
        """Compile a list that holds values, and so maybe lists, to one that is measured when it is made."""
        measured = any(not isinstance(item, nodes.Const) for item in items)
        self.write("environment.bounded(" if measured else "")
        visit(node, frame)
        self.write(")" if measured else "")


class Compiled(NamedTuple):
    """A template, ready to be rendered.

    Attributes:
        template: with marks around the printing of each message.
        tree: the syntax tree, as it was written.
    """

    sandbox: Sandbox
    template: jinja2.Template
    tree: nodes.Template


class Sandbox(ImmutableSandboxedEnvironment):
    """An immutable sandbox that tracks and counts. Not for several threads at once: it has one meter."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[environment.Generation, jinja2.ext.loopcontrols]
        )
        self.meter = Meter()
        self.lock = threading.Lock()
        self.finalize = self._printable
        self.concat = self._joined  # type: ignore[method-assign]
        del self.globals["lipsum"]  # prints texts without end
        self.globals.update(
            raise_exception=environment.raise_exception,
            strftime_now=environment.strftime_now,
            dict=environment.Dict(),
            namespace=environment.Namespace,
        )
        self.filters["tojson"] = environment.tojson
        own = {
            "format": self._format,
            "pprint": environment.pprint,
            "title": environment.title,
            "join": self._join,
            "list": self._list,
            "replace": self._replace,
            "safe": environment.safe,
            "string": str,
            "sum": self._sum,
        }
        self.filters = {name: self._guarded(name, function) for name, function in {**self.filters, **own}.items()}

        tests = cast("dict[str, Callable[..., Any]]", self.tests)
        self.tests = {name: self._counted(name, test) for name, test in tests.items()}

    def compile_template(self, source: str) -> Compiled:
        """Return the compiled template.

        Raises:
            LimitError: *source* is no template of this world.
            jinja2.TemplateSyntaxError: it is not valid.
        """
        if len(source) > SOURCE:
            raise LimitError(f"the chat template is longer than {SOURCE:,} characters")
        tree = self.parse(source)
        for kind, limit, name in _SYNTAX:
            if sum(1 for _ in tree.find_all(kind)) > limit:
                raise LimitError(f"the chat template has more than {limit:,} {name}")
        return Compiled(self, self._made(self._marked(source)), tree)

    def _marked(self, source: str) -> nodes.Template:
        tree = self.parse(source)
        for used in tree.find_all(nodes.Filter):
            if used.name in _OURS:
                raise jinja2.TemplateAssertionError(f"No filter named {used.name!r}.", used.lineno)
        tree.body = with_marks(tree.body, [])
        return tree

    def _made(self, tree: nodes.Template) -> jinja2.Template:
        return self.template_class.from_code(self, self.compile(tree), self.make_globals(None), None)

    # what compiled templates call

    def concatenated(self, values: Sequence[object]) -> str:
        """Return ``a ~ b``."""
        return self._joined([str(self._printable(value)) for value in values])

    def bounded(self, value: Any) -> Any:
        """Return *value*, a list or mapping, if it is not nested beyond measure: to compare or print it takes time."""
        self.meter.spend(size_of(value))
        return value

    def enter(self, value: object) -> str:
        """Mark where the printing of a message begins."""
        self.meter.step()
        index = message_index(value)
        return "" if index is None else mark(tag_of(index, ENTER))

    def exit(self, value: object) -> str:
        """Mark where it ends."""
        index = message_index(value)
        return "" if index is None else mark(tag_of(index, EXIT))

    def step(self, value: object) -> bool:
        """Count a step of a loop."""
        self.meter.step()
        return True

    def compared(self, value: Any) -> Any:
        """Return *value*, which is compared or hashed, if it is no list beyond measure."""
        if type(value) in NESTING:
            self.meter.look(size_of(value))
        return value

    def searched(self, value: Any) -> Any:
        """Return *value*, in which something is looked for, if it is no list beyond measure."""
        if isinstance(value, str):
            return value
        if isinstance(value, Iterator):
            value = list(self._items(value))
        if type(value) in NESTING and type(value) is not dict:
            self.meter.look(size_of(value))
        return value

    def sliced(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """Return ``value[start:stop:step]``."""
        if isinstance(value, (list, tuple)):
            self.meter.spend(POINTER * len(value), COPIED)
        else:
            self.meter.spend(len(value) if isinstance(value, str) else 1)
        return value[start:stop:step]

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return ``obj[argument]``, counted: a filter such as ``map`` runs it without a loop."""
        meter = self.meter
        meter.step()
        kind = type(obj)
        if type(argument) in NESTING:
            meter.look(size_of(argument))
        elif (kind is Message or kind is dict) and isinstance(argument, str) and argument in obj:
            return obj[argument]
        elif kind is Tracked:
            meter.look(len(runs_of(obj)))
        return super().getitem(obj, argument)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return ``obj.attribute``; a short way for what templates ask for most, with the same result."""
        kind = type(obj)
        if kind is Message or kind is dict:
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
        """Return the result of an operator, within bounds and with its tags."""
        if operator == "+":
            if type(left) is str and type(right) is str and len(left) + len(right) < _SHORT:
                return left + right
            if isinstance(left, str):
                self.meter.spend(len(left) + (len(right) if isinstance(right, str) else 0))
            elif isinstance(left, (list, tuple, Messages)):
                return self._chained(left, right)
            return left + right
        if operator == "%":
            if not isinstance(left, str):
                return left % right
            if (parts := percent_parts(left, right)) is not None:
                return self._joined(parts)
            return self._formatted(left, lambda: left % right, right)
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > 1024:
                raise LimitError("the chat template computes a number beyond every measure")
        elif operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, str) and isinstance(times, int):
                    self.meter.spend(len(many) * max(times, 0))
                elif isinstance(many, (list, tuple)) and isinstance(times, int):
                    self.meter.spend(POINTER * len(many) * max(times, 0), POINTER * ITEMS)
                    self.meter.look((size_of(many) - 1) * max(times, 0))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call *function*, within bounds and with its tags."""
        meter = self.meter
        meter.step()
        owner = getattr(function, "__self__", None)
        if not isinstance(owner, str):
            if isinstance(function, environment.Dict) or isinstance(owner, environment.Dict):
                args = tuple(list(self._items(value)) if isinstance(value, Iterator) else value for value in args)
                meter.arguments([list(args), kwargs])
                if owner is not None and args and isinstance(args[0], Sized):
                    meter.look(len(args[0]) * size_of(args[1:]))
            else:
                if isinstance(owner, (list, tuple)):  # to count, or to find the index of something
                    meter.look(size_of(owner))
                if type(function) is not Macro and function is not environment.Namespace:
                    for value in args:  # it may be hashed, compared, or shown in an error
                        self.compared(value)
            result = super().call(context, function, *args, **kwargs)
            if type(result) is dict:
                meter.spend(2 * ITEM * len(result), COPIED)
            return result
        given = {name: value for name, value in kwargs.items() if not name.startswith("_")}  # Jinja adds its own
        name = getattr(function, "__name__", "")
        meter.arguments(args, widths=name in WITH_WIDTHS)
        meter.arguments(given.values(), widths=name in WITH_WIDTHS)
        meter.spend(len(owner))
        if name == "join" and len(args) == 1:
            if isinstance(args[0], str):
                meter.spend(len(args[0]) * (len(owner) + 1))
            return self._joined(self._list(args[0]), owner)
        weight = _weight(owner)
        if name in GROWING:
            bound_growth(meter, name, (owner, *args), given)
        if name in ("split", "rsplit"):
            separator = next((value for value in (*args, *given.values()) if isinstance(value, str)), "")
            meter.look(weight * (owner.count(separator) if separator else len(owner) // 2), COPIED)
        elif name == "splitlines":
            meter.look(weight * sum(map(owner.count, _LINE_ENDS)), COPIED)
        elif name == "replace" and len(args) >= 2:
            self._bound_replace(owner, str(args[0]), str(args[1]))
        result = super().call(context, function, *args, **kwargs)
        if type(result) is list:
            meter.spend(weight * len(result), COPIED)
        if type(result) is str and type(owner) is str:
            return whole(result, args, given)
        return result

    def wrap_str_format(self, value: Any) -> Any:
        """Return what stands for the method ``format`` of a string, or None for any other value."""
        owner = getattr(value, "__self__", None)
        if not isinstance(owner, str) or getattr(value, "__name__", "") not in ("format", "format_map"):
            return None
        wrapped = super().wrap_str_format(getattr(str.__str__(owner), value.__name__))
        assert wrapped is not None

        def method(*args: Any, **kwargs: Any) -> str:
            given = {name: item for name, item in kwargs.items() if not name.startswith("_")}
            fields = args[0] if value.__name__ == "format_map" and len(args) == 1 else given
            if (parts := format_parts(owner, () if fields is not given else args, fields)) is not None:
                return self._joined([str(self._printable(part)) for part in parts])
            return self._formatted(owner, lambda: wrapped(*args, **given), *args, given)

        return method

    # how

    def _printable(self, value: Any) -> Any:
        """Return *value*, which is about to become a string; a list keeps the tags of what is in it."""
        kind = type(value)
        if kind in NESTING or (
            kind is not str and kind is not Tracked and isinstance(value, (list, dict, tuple, Messages))
        ):
            self.meter.spend(size_of(value))
            return whole(str(value), value)
        return value

    def _joined(self, parts: Iterable[str], separator: str = "") -> str:
        parts = list(parts)
        length = 0
        for part in parts:
            length += len(part)
        self.meter.spend(length + len(separator) * len(parts))
        return join(parts, separator)

    def _bound_replace(self, text: str, old: str, new: str) -> None:
        found = text.count(old) if old else len(text) + 1
        self.meter.spend(len(text) + found * len(new))
        if type(text) is Tracked or type(new) is Tracked:  # each piece takes a microsecond
            self.meter.look(2 * TRACKED_ITEM * found, COPIED)

    def _items(self, values: Iterable[Any]) -> Iterator[Any]:
        """Yield *values*, which are about to make a new list, each counted."""
        meter = self.meter
        for value in values:
            meter.step()
            meter.spend(ITEM)
            yield value

    def _list(self, value: Iterable[Any]) -> list[Any]:
        if isinstance(value, Sized) and not isinstance(value, Messages):
            self.meter.spend((_weight(value) if isinstance(value, str) else POINTER) * len(value), COPIED)
            return list(value)
        return list(self._items(value))

    def _chained(self, left: Any, right: Any) -> Any:
        """Return the sum of two lists.

        What they hold is measured each time that the length has doubled, so that a list to which items are
        added one by one takes no longer for it.
        """
        if isinstance(right, Iterator):
            right = list(self._items(right))
        result = left + right
        self.meter.spend(POINTER * len(result), POINTER * CHARACTERS)
        longer = left if isinstance(left, Messages) or len(left) > len(right) else right
        if not isinstance(longer, Messages) and len(result).bit_length() > len(longer).bit_length():
            self.meter.look(size_of(result))
        return result

    def _formatted(self, template: str, make: Callable[[], Any], *values: Any) -> str:
        """Return what *make* formats by *template*; text of its own and of messages cannot be told apart then."""
        if WIDE.search(template):
            raise LimitError("the chat template formats with a width that is too large, or taken from a value")
        self.meter.arguments(values)
        self.meter.spend(len(template) + (template.count("{") + template.count("%")) * size_of(values))
        return blurred(str(make()), template, values)

    def _guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the filter *function* with bounded arguments, and a result that keeps its tags."""
        meter = self.meter
        printed, widths = name not in PRINTING_NOTHING, name in WITH_WIDTHS
        first = int(hasattr(function, "jinja_pass_arg"))  # some get the environment before all else

        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            meter.step()
            if name in COMPARING and not isinstance(args[first], (list, tuple, dict, range)):
                args = (*args[:first], self._list(args[first]), *args[first + 1 :])
            given = args[first:]
            if name in COMPARING and isinstance(given[0], Sized):
                keys = max(value.count(",") for value in ("", *given[1:], *kwargs.values()) if isinstance(value, str))
                meter.look(len(given[0]) * (1 + keys), NESTED)
            elif name in ("batch", "slice") and isinstance(given[0], str):
                meter.spend(_weight(given[0]) * len(given[0]), COPIED)
            meter.arguments(given[:1], printed)
            meter.arguments(given[1:], True, widths)
            meter.arguments(kwargs.values(), True, widths)
            if name in SLOW and isinstance(given[0], str):
                meter.look(8 * len(given[0]))
            if name in GROWING:
                bound_growth(meter, name, given, kwargs)
            result = function(*args, **kwargs)
            if name in ("batch", "slice"):
                return self._rows(result)
            if type(result) is list and name != "list":
                meter.spend(ITEM * len(result), COPIED)
            if type(result) is not str:
                return result
            meter.spend(len(result))
            return whole(result, args, kwargs)

        return guarded

    def _rows(self, rows: Iterable[list[Any]]) -> Iterator[list[Any]]:
        for row in rows:
            self.meter.spend(ITEM + POINTER * len(row), COPIED)
            yield row

    def _counted(self, name: str, test: Callable[..., Any]) -> Callable[..., Any]:
        """Return *test*, counted: a filter such as ``select`` runs it without a loop."""
        meter = self.meter

        @functools.wraps(test)
        def counted(*args: Any, **kwargs: Any) -> Any:
            meter.step()
            for value in args if name == "in" else args[1:]:
                self.compared(value)
            if name == "in":
                args = (args[0], *map(self.searched, args[1:]))
            return test(*args, **kwargs)

        return counted

    def _join(self, value: Iterable[Any], d: str = "", attribute: Any = None) -> str:
        if attribute is not None:
            value = map(jinja2.filters.make_attrgetter(self, attribute), value)
        return self._joined([str(self._printable(item)) for item in self._list(value)], str(d))

    def _format(self, value: Any, *args: Any, **kwargs: Any) -> str:
        template, values = str(value), kwargs or args
        if args and kwargs:
            raise FilterArgumentError("can't handle positional and keyword arguments at the same time")
        return str(self.call_binop(None, "%", template, values))

    def _sum(self, iterable: Iterable[Any], attribute: Any = None, start: Any = 0) -> Any:
        if attribute is not None:
            iterable = map(jinja2.filters.make_attrgetter(self, attribute), iterable)
        if isinstance(start, str):
            raise TypeError("sum() can't sum strings [use ''.join(seq) instead]")  # as Python says
        return functools.reduce(self._added, iterable, start)

    def _added(self, left: Any, right: Any) -> Any:
        self.meter.step()
        return self.call_binop(None, "+", left, right)  # lists are copied at each step

    def _replace(self, s: Any, old: Any, new: Any, count: int | None = None) -> str:
        text, old, new = str(s), str(old), str(new)
        self._bound_replace(text, old, new)
        if type(text) is str and type(new) is Tracked:
            text = tracked(text, runs_of(text))
        return text.replace(old, new, -1 if count is None else count)


def _weight(text: str) -> int:
    """Return what a part of *text* weighs."""
    return TRACKED_ITEM if type(text) is Tracked else ITEM
