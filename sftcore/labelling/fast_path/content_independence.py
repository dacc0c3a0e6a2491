"""Which templates do not look at what the messages say: what they print around it is the same for all texts.

Such a template may print a text, trim it, and join it with others. It may ask for the roles, and how many messages
there are. It may also ask whether a text has some words in it, such as ``</think>``: then it is blind to all texts
that do not have them. The source is followed once, with a kind in place of each value.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from jinja2 import nodes


class Kind(IntEnum):
    """What a value may be made of."""

    PLAIN = 0
    """Of roles, of numbers, of what the template has itself."""
    RAW = 1
    """It is the text of a message, maybe trimmed."""
    TEXT = 2
    """Of texts of messages too, joined with others; or nothing."""
    MESSAGE = 3
    MESSAGES = 4
    PARTS = 5
    """A text that was split by words which it does not have: a list of one."""


class Value(NamedTuple):
    """What is known of a value: its kind; whether it is true, or None; and its state.

    That is "nothing", "undefined", "role", or MAYBE.
    """

    kind: Kind = Kind.PLAIN
    truth: bool | None = None
    state: str = ""


ROLES = frozenset({"system", "user", "assistant"})

MAYBE = "maybe"
"""The state of a message that may be another thing, at another time or in another branch."""

PLAIN = Value()
RAW = Value(Kind.RAW, True)
TEXT = Value(Kind.TEXT)
NONE = Value(Kind.PLAIN, False, "nothing")
ROLE = Value(Kind.PLAIN, True, "role")
ABSENT = Value(Kind.PLAIN, False, "undefined")

_IS_NONE = str(None).lower()
"""The test that asks for ``None``."""

_OF_TYPES = frozenset(
    {"boolean", "callable", "defined", "false", "float", "integer", "iterable", "mapping", _IS_NONE}
) | {*("number", "sequence", "string", "true", "undefined")}
_STRIPS = ("strip", "lstrip", "rstrip")
_DEPTH = 6


class SeenError(Exception):
    """The template looks at what a message says."""


def blind_to(tree: nodes.Template) -> frozenset[str] | None:
    """Return words such that the template is blind to all texts without them; None if there are no such words.

    This holds for conversations without tools, whose messages have one of :data:`ROLES` and a text that is not all
    white space, and nothing else.
    """
    try:
        reader = _Reader(tree)
        before = None
        while before != reader.spaces:
            before = dict(reader.spaces)
            reader.read()
    except (SeenError, RecursionError):
        return None
    return frozenset(reader.words)


class _Reader:
    def __init__(self, tree: nodes.Template) -> None:
        self.tree = tree
        self.words: set[str] = set()
        self.spaces: dict[str, Value] = {}
        self.macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
        self.namespaces = {
            assign.target.name
            for assign in tree.find_all(nodes.Assign)
            if isinstance(assign.target, nodes.Name) and _is_namespace(assign.node)
        } | {reference.name for reference in tree.find_all(nodes.NSRef)}
        self.root: dict[str, Value] = {}
        self.depth = 0
        if len(self.macros) != sum(1 for _ in tree.find_all(nodes.Macro)):
            raise SeenError

    def read(self) -> None:
        self.root = {"messages": Value(Kind.MESSAGES), "tools": NONE, "documents": NONE}
        self.body(self.tree.body, self.root, [], True)

    # statements

    def body(self, body: Sequence[nodes.Node], env: dict[str, Value], printed: list[Value], at_root: bool) -> None:
        """Follow *body*, which changes *env* and adds to *printed*."""
        for node in body:
            if isinstance(node, nodes.Output):
                printed += [self.printable(child, env) for child in node.nodes if not _is_empty(child)]
            elif isinstance(node, nodes.If):
                self.branch(node, env, printed, at_root)
            elif isinstance(node, nodes.For):
                self.loop(node, env, printed)
            elif isinstance(node, nodes.Assign):
                self.assign(node.target, node.node, env)
            elif isinstance(node, nodes.AssignBlock):
                inner: list[Value] = []
                self.body(node.body, dict(env), inner, False)
                if node.filter is not None or not isinstance(node.target, nodes.Name):
                    raise SeenError
                env[node.target.name] = _of_printed(inner)
            elif isinstance(node, nodes.ExprStmt):
                self.value(node.node, env)
            elif not isinstance(node, (nodes.Macro, nodes.Continue, nodes.Break)):
                raise SeenError

    def branch(self, node: nodes.If, env: dict[str, Value], printed: list[Value], at_root: bool) -> None:
        truth = self.value(node.test, env).truth
        rest: list[nodes.Node] = node.else_
        if node.elif_:
            first, *others = node.elif_
            rest = [nodes.If(first.test, first.body, others, node.else_)]
        ends: list[dict[str, Value]] = []
        for possible, branch in ((truth is not False, node.body), (truth is not True, rest)):
            if possible:
                inner = dict(env)
                outer, self.root = self.root, inner if at_root else self.root
                self.body(branch, inner, printed, at_root)
                self.root = outer
                ends.append(inner)
        names = {name for end in ends for name in end}
        for name in names:
            values = [end.get(name, PLAIN) for end in ends]
            env[name] = values[0] if len(values) == 1 else _joined(*values)

    def loop(self, node: nodes.For, env: dict[str, Value], printed: list[Value]) -> None:
        items = self.value(node.iter, env)
        if items.kind not in (Kind.PLAIN, Kind.MESSAGES) or node.recursive:
            raise SeenError
        inner = {**env, "loop": PLAIN, " items": items}
        targets = node.target.items if isinstance(node.target, nodes.Tuple) else [node.target]
        for target in targets:
            if not isinstance(target, nodes.Name) or (items.kind == Kind.MESSAGES and len(targets) > 1):
                raise SeenError
            inner[target.name] = Value(Kind.MESSAGE, True) if items.kind == Kind.MESSAGES else PLAIN
        if node.test is not None:
            self.value(node.test, inner)
        self.body(node.body, inner, printed, False)
        self.body(node.else_, dict(env), printed, False)

    def assign(self, target: nodes.Node, source: nodes.Node, env: dict[str, Value]) -> None:
        if _is_namespace(source):
            assert isinstance(source, nodes.Call)
            if not isinstance(target, nodes.Name) or source.args or source.dyn_args or source.dyn_kwargs:
                raise SeenError
            for keyword in source.kwargs:
                self.keep(f"{target.name}.{keyword.key}", self.value(keyword.value, env))
            env[target.name] = PLAIN
            return
        value = self.value(source, env)
        if isinstance(target, nodes.NSRef):
            self.keep(f"{target.name}.{target.attr}", value)
        elif isinstance(target, nodes.Name) and target.name not in self.namespaces:
            env[target.name] = value
        elif value.kind != Kind.PLAIN or not isinstance(target, nodes.Tuple):
            raise SeenError

    def keep(self, attribute: str, value: Value) -> None:
        """Take down what an attribute of a namespace may be, at any time."""
        known = self.spaces.get(attribute)
        self.spaces[attribute] = _forgotten(value if known is None else _joined(known, value))

    # expressions

    def printable(self, node: nodes.Node, env: dict[str, Value]) -> Value:
        value = self.value(node, env)
        if value.kind > Kind.TEXT:
            raise SeenError
        return value

    def plain(self, nodes_: Sequence[nodes.Node | None], env: dict[str, Value]) -> None:
        """Make sure that all values are plain."""
        for node in nodes_:
            if node is not None and self.value(node, env).kind != Kind.PLAIN:
                raise SeenError

    def value(self, node: nodes.Node, env: dict[str, Value]) -> Value:
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise SeenError
        found: Value = method(node, env)
        return found

    def _const(self, node: nodes.Const, env: dict[str, Value]) -> Value:
        return Value(Kind.PLAIN, bool(node.value), NONE.state if node.value is None else "")

    def _templatedata(self, node: nodes.TemplateData, env: dict[str, Value]) -> Value:
        return PLAIN

    def _name(self, node: nodes.Name, env: dict[str, Value]) -> Value:
        if node.name in self.namespaces or node.name in ("caller", "varargs", "kwargs", "self"):
            raise SeenError
        return env.get(node.name, PLAIN)

    def _getattr(self, node: nodes.Getattr, env: dict[str, Value]) -> Value:
        return self.attribute(node.node, node.attr, env)

    def _getitem(self, node: nodes.Getitem, env: dict[str, Value]) -> Value:
        key = node.arg
        if isinstance(key, nodes.Const) and isinstance(key.value, str):
            return self.attribute(node.node, key.value, env)
        of = self.value(node.node, env)
        if isinstance(key, nodes.Slice):
            self.plain([key.start, key.stop, key.step], env)
            if of.kind not in (Kind.PLAIN, Kind.MESSAGES):
                raise SeenError
            return Value(of.kind)
        self.plain([key], env)
        if of.kind == Kind.MESSAGES:
            return Value(Kind.MESSAGE)
        if of.kind == Kind.PARTS and _constant(key) in (0, -1):
            return RAW
        if of.kind != Kind.PLAIN:
            raise SeenError
        return PLAIN

    def attribute(self, of: nodes.Node, name: str, env: dict[str, Value]) -> Value:
        """Return what an attribute or item called *name* may be."""
        if isinstance(of, nodes.Name) and of.name in self.namespaces:
            return self.spaces.get(f"{of.name}.{name}", PLAIN)
        if isinstance(of, nodes.Name) and of.name == "loop" and name in ("previtem", "nextitem"):
            return Value(Kind.MESSAGE) if env[" items"].kind == Kind.MESSAGES else PLAIN
        value = self.value(of, env)
        if value.kind == Kind.MESSAGE:
            if name == "content":
                return TEXT if value.state == MAYBE else RAW
            if name in ("get", "items", "keys", "values", "copy", "pop"):
                raise SeenError
            return ROLE if name == "role" else ABSENT
        if value.kind != Kind.PLAIN:
            raise SeenError
        return PLAIN

    def _call(self, node: nodes.Call, env: dict[str, Value]) -> Value:
        if node.dyn_args or node.dyn_kwargs:
            raise SeenError
        called, args = node.node, node.args
        if isinstance(called, nodes.Name) and called.name in self.macros and called.name not in env:
            return self.macro(self.macros[called.name], node, env)
        if isinstance(called, nodes.Name) and called.name == "raise_exception":
            for argument in args:
                self.value(argument, env)
            return PLAIN
        if isinstance(called, nodes.Getattr) and not (
            isinstance(called.node, nodes.Name) and called.node.name == "loop"
        ):
            owner = self.value(called.node, env)
            if owner.kind == Kind.MESSAGE:
                return self.get(called.attr, args, env, owner)
            if owner.kind in (Kind.RAW, Kind.TEXT):
                return self.method(owner, called.attr, [_constant(argument) for argument in args], node.kwargs)
            if owner.kind != Kind.PLAIN:
                raise SeenError
        elif not isinstance(called, (nodes.Name, nodes.Getattr)):
            raise SeenError
        self.plain([*args, *(keyword.value for keyword in node.kwargs)], env)
        return PLAIN

    def get(self, method: str, args: Sequence[nodes.Expr], env: dict[str, Value], owner: Value) -> Value:
        """Return ``message.get(...)``."""
        key = _constant(args[0]) if args else None
        if method != "get" or not isinstance(key, str):
            raise SeenError
        if key == "content":
            return TEXT if owner.state == MAYBE else RAW
        if key == "role":
            return ROLE
        return self.value(args[1], env) if len(args) > 1 else NONE

    def method(self, owner: Value, name: str, args: list[object], kwargs: Sequence[nodes.Keyword]) -> Value:
        """Return what a method of a text gives."""
        if kwargs:
            raise SeenError
        if name in _STRIPS and args in ([], ["\n"]):
            return owner
        if owner.kind == Kind.RAW and len(args) == 1 and isinstance(args[0], str) and args[0]:
            if name in ("startswith", "endswith"):
                return self.asks(args[0])
            if name == "split":
                self.words.add(args[0])
                return Value(Kind.PARTS)
        raise SeenError

    def asks(self, words: str, outcome: bool = False) -> Value:
        """Return the outcome where the text does not have *words*."""
        self.words.add(words)
        return Value(Kind.PLAIN, outcome)

    def macro(self, macro: nodes.Macro, call: nodes.Call, env: dict[str, Value]) -> Value:
        """Return what a call of *macro* prints."""
        names = [argument.name for argument in macro.args]
        given = {keyword.key: self.value(keyword.value, env) for keyword in call.kwargs}
        if len(call.args) > len(names) or not given.keys() <= set(names) or self.depth > _DEPTH:
            raise SeenError
        given.update(zip(names, [self.value(argument, env) for argument in call.args], strict=False))
        inner = dict(self.root)
        defaults = dict(zip(reversed(names), reversed(macro.defaults), strict=False))
        for name in names:
            if name in given:
                inner[name] = given[name]
            else:
                inner[name] = self.value(defaults[name], inner) if name in defaults else ABSENT
        printed: list[Value] = []
        self.depth += 1
        self.body(macro.body, inner, printed, False)
        self.depth -= 1
        return _of_printed(printed)

    def _filter(self, node: nodes.Filter, env: dict[str, Value]) -> Value:
        if node.node is None or node.dyn_args or node.dyn_kwargs:
            raise SeenError
        of = self.value(node.node, env)
        name, args, kwargs = node.name, node.args, {keyword.key: _constant(keyword.value) for keyword in node.kwargs}
        if name in ("default", "d") and args:
            other = self.value(args[0], env)
            return of if of.kind == Kind.RAW else _joined(of, other)
        self.plain([*args, *(keyword.value for keyword in node.kwargs)], env)
        if of.kind == Kind.PLAIN:
            return PLAIN
        if of.kind in (Kind.RAW, Kind.TEXT) and name in ("trim", "string") and not args and not kwargs:
            return of
        if of.kind == Kind.PARTS and name in ("first", "last"):
            return RAW
        if of.kind == Kind.MESSAGES:
            if name in ("length", "count"):
                return PLAIN
            if name in ("list", "reverse"):
                return Value(Kind.MESSAGES)
            if name in ("first", "last"):
                return Value(Kind.MESSAGE)
            if name in ("selectattr", "rejectattr") and args and _constant(args[0]) == "role":
                return Value(Kind.MESSAGES)
            if name == "map" and kwargs == {"attribute": "role"} and not args:
                return PLAIN
        raise SeenError

    def _test(self, node: nodes.Test, env: dict[str, Value]) -> Value:
        of = self.value(node.node, env)
        self.plain([*node.args, *(keyword.value for keyword in node.kwargs)], env)
        if of.kind != Kind.PLAIN and (node.name not in _OF_TYPES or of.kind == Kind.PARTS):
            raise SeenError
        return Value(Kind.PLAIN, _outcome(node.name, of))

    def _compare(self, node: nodes.Compare, env: dict[str, Value]) -> Value:
        if len(node.ops) != 1:
            self.plain([node.expr, *(operand.expr for operand in node.ops)], env)
            return PLAIN
        operand = node.ops[0]
        left, right, op = self.value(node.expr, env), self.value(operand.expr, env), operand.op
        words = _constant(node.expr)
        if op in ("in", "notin"):
            items = operand.expr.items if isinstance(operand.expr, (nodes.List, nodes.Tuple)) else None
            if left.state == "role" and items is not None and not ROLES & {_constant(item) for item in items}:
                return Value(Kind.PLAIN, op == "notin")
            if right.kind == Kind.RAW and isinstance(words, str) and words:
                return self.asks(words, op == "notin")
            if right.kind == Kind.MESSAGE and isinstance(words, str):
                return PLAIN
        elif op in ("eq", "ne") and {left.kind, right.kind} <= {Kind.PLAIN, Kind.RAW, Kind.TEXT}:
            for side, other in ((left, operand.expr), (right, node.expr)):
                told = _constant(other)
                if side.state == "role" and isinstance(told, str) and told not in ROLES:
                    return Value(Kind.PLAIN, op == "ne")
                if side.kind == Kind.RAW and isinstance(told, str):
                    return self.asks(told, op == "ne") if told else Value(Kind.PLAIN, op == "ne")
                if isinstance(other, nodes.Const) and (told == "" or not isinstance(told, str)):
                    return PLAIN
        if left.kind != Kind.PLAIN or right.kind != Kind.PLAIN:
            raise SeenError
        return PLAIN

    def _and(self, node: nodes.And, env: dict[str, Value]) -> Value:
        return self.either(node, env, False)

    def _or(self, node: nodes.Or, env: dict[str, Value]) -> Value:
        return self.either(node, env, True)

    def either(self, node: nodes.And | nodes.Or, env: dict[str, Value], settled: bool) -> Value:
        """Return the left value if its truth is *settled*, and else the right one."""
        left = self.value(node.left, env)
        if left.truth is settled:
            return left
        right = self.value(node.right, env)
        if left.truth is not None:
            return right
        return _joined(left, right)._replace(truth=settled if right.truth is settled else None)

    def _not(self, node: nodes.Not, env: dict[str, Value]) -> Value:
        truth = self.value(node.node, env).truth
        return Value(Kind.PLAIN, None if truth is None else not truth)

    def _condexpr(self, node: nodes.CondExpr, env: dict[str, Value]) -> Value:
        truth = self.value(node.test, env).truth
        values = [self.value(node.expr1, env)] if truth is not False else []
        if truth is not True:
            values.append(self.value(node.expr2, env) if node.expr2 is not None else ABSENT)
        return values[0] if len(values) == 1 else _joined(*values)

    def _concat(self, node: nodes.Concat, env: dict[str, Value]) -> Value:
        return _of_printed([self.printable(inner, env) for inner in node.nodes], alone=False)

    def _add(self, node: nodes.Add, env: dict[str, Value]) -> Value:
        return _of_printed([self.printable(inner, env) for inner in (node.left, node.right)], alone=False)

    def _all_plain(self, node: nodes.Node, env: dict[str, Value]) -> Value:
        self.plain([*node.iter_child_nodes()], env)
        return PLAIN

    _sub = _mul = _div = _floordiv = _mod = _pow = _neg = _pos = _list = _tuple = _dict = _pair = _all_plain


def _is_namespace(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Call) and getattr(node.node, "name", "") == "namespace"


def _is_empty(node: nodes.Node) -> bool:
    return isinstance(node, nodes.TemplateData) and not node.data


def _constant(node: nodes.Node | None) -> object:
    """Return the value of a constant; None for all else."""
    if isinstance(node, nodes.Neg) and isinstance(node.node, nodes.Const):
        return -node.node.value
    return node.value if isinstance(node, nodes.Const) else None


def _of_printed(printed: Sequence[Value], alone: bool = True) -> Value:
    """Return what a text is that is made of *printed*; *alone*: one that is made of one is that one."""
    if alone and len(printed) == 1 and printed[0].kind == Kind.RAW:
        return RAW
    return TEXT if any(value.kind != Kind.PLAIN for value in printed) else PLAIN


def _forgotten(value: Value) -> Value:
    """Return what may be known of *value* at another time."""
    return Value(Kind.TEXT if value.kind == Kind.RAW else value.kind, None, MAYBE)


def _joined(one: Value, other: Value) -> Value:
    """Return what a value is that may be *one* or the *other*."""
    kinds = {one.kind, other.kind} - {Kind.PLAIN}
    if one.kind == other.kind:
        kind = one.kind
    elif kinds <= {Kind.RAW, Kind.TEXT}:
        kind = Kind.TEXT
    elif len(kinds) == 1 and Kind.PARTS not in kinds:
        kind = kinds.pop()
    else:
        raise SeenError
    state = one.state if one.state == other.state else MAYBE
    return Value(kind, one.truth if one.truth is other.truth else None, state)


def _outcome(test: str, of: Value) -> bool | None:
    """Return how a test of types ends; None if it depends."""
    if of.state == "undefined":
        known = {"defined": False, "undefined": True, _IS_NONE: False, "string": False, "mapping": False}
    elif of.state == NONE.state:
        known = {
            "defined": True,
            "undefined": False,
            _IS_NONE: True,
            "string": False,
            "mapping": False,
            "iterable": False,
        }
    elif of.kind == Kind.RAW:
        known = {"string": True, "defined": True, "iterable": True, "sequence": True}
        known |= dict.fromkeys(_OF_TYPES - known.keys(), False)
    else:
        known = {}
    return known.get(test)
