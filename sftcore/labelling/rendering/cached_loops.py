"""The loops over the messages in a template's syntax tree, made to ask a memory before they print a message.

What such a loop prints for a message is remembered, with all that it read; see
:mod:`~sftcore.labelling.rendering.render_cache`. A loop that may read or do what cannot be seen is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from jinja2 import nodes

from sftcore.labelling.rendering.constant_prompt import (
    derived_names,
    is_messages,
    loop_attributes,
    names_in,
    statement_loops,
)

FORGETFUL = frozenset({"cycler", "joiner", "lipsum", "self"})
"""Names of what prints another text each time, or whose reading cannot be seen."""

LOOP_VALUES = frozenset(
    {"depth", "depth0", "first", "index", "index0", "last", "length", "nextitem", "previtem", "revindex", "revindex0"}
)
"""What a loop may be asked for: plain values, and messages."""

LENGTH = "#"
"""What is guarded of a list: its length."""

Guarded = tuple[int, str]
"""The position of a name among the values of a loop, and what of it is guarded: an attribute, or its length."""

_Node = TypeVar("_Node", bound=nodes.Node)

_OF_THE_RENDERING = {"messages", "add_generation_prompt"}
"""Variables that differ between renderings; all others are the same, or make another memory's key."""

_FORWARD = frozenset({"first", "index", "index0", "last", "previtem"})
"""What a loop may be asked for so that its next messages are told by those that it has printed."""

_AHEAD = frozenset({"last", "length", "nextitem", "revindex", "revindex0"})
"""What a loop knows of the messages that follow; where it has a condition, that may depend on what the body sets."""

_OPAQUE = (nodes.Block, nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
_ORDERED = frozenset({"eq", "ne", "lt", "lteq", "gt", "gteq"})
_LENGTHS = ("length", "count")


@dataclass
class _Loop:
    """A loop over the messages: what its body reads of the outside."""

    node: nodes.For
    number: int
    names: list[str]
    attributes: list[str]
    guarded: set[Guarded] = field(default_factory=set)


class Remembered(NamedTuple):
    """A loop that asks the memory: what is guarded in it, and whether it just goes from each message to the next."""

    guarded: frozenset[Guarded]
    forward: bool


def with_memory(tree: nodes.Template) -> list[Remembered]:
    """Change *tree* so that its loops over the messages ask the memory; return these loops.

    In such a loop ``{{ message | _recall(number, ...) }}`` prints what is remembered, or nothing; the
    body stands in ``{% if 0 | _missed %}``, and ``_keep`` takes what it has printed. A number that is only
    compared, such as ``ns.last_query`` or ``messages | length - 1``, goes through ``_guarded``: then the
    outcome is remembered in place of the number.
    """
    macros = list(tree.find_all(nodes.Macro))
    named = {macro.name for macro in macros}
    if next(tree.find_all(_OPAQUE), None) is not None or len(named) < len(macros):
        return []
    derived = derived_names(tree)
    outer = (
        set(_set_outside(tree.body)) | _OF_THE_RENDERING | {macro.name for macro in macros if macro not in tree.body}
    )
    spaces = _namespaces(tree)
    loops: list[_Loop] = []
    for node in [loop for loop, _ in statement_loops(tree.body, []) if derived & names_in(loop.iter)]:
        if _can_be_seen(node, tree, macros):
            scope = [*node.body, *macros]
            read = {name.name for name in _names(scope) if name.ctx == "load"}
            read |= {space.name for inner in scope for space in _with_self(inner, nodes.NSRef)}
            attributes = sorted(set(loop_attributes(node)))
            loops.append(_Loop(node, len(loops), sorted(read & outer), attributes))
    for loop in loops:
        _guard(loop, spaces, macros)
        _ask(loop)
    return [
        Remembered(frozenset(loop.guarded), _FORWARD.issuperset(loop.attributes) and _goes_forward(loop.node, tree))
        for loop in loops
    ]


def _set_outside(body: list[nodes.Node]) -> Iterator[str]:
    """Yield the names that are set in *body*, but in no loop, block or macro in it."""
    for node in body:
        if isinstance(node, (nodes.Assign, nodes.AssignBlock)):
            yield from (name.name for name in _with_self(node.target, nodes.Name))
        elif isinstance(node, nodes.If):
            for branch in (node.body, *(other.body for other in node.elif_), node.else_):
                yield from _set_outside(branch)


def _names(body: Iterable[nodes.Node]) -> Iterator[nodes.Name]:
    for node in body:
        yield from _with_self(node, nodes.Name)


def _with_self(node: nodes.Node, kind: type[_Node]) -> Iterator[_Node]:
    if isinstance(node, kind):
        yield node
    yield from node.find_all(kind)


def _can_be_seen(loop: nodes.For, tree: nodes.Template, macros: list[nodes.Macro]) -> bool:
    """Tell whether all that an iteration of *loop* reads and does is plain to see."""
    if loop.recursive or not isinstance(loop.target, nodes.Name) or not _stands_plainly(loop, tree.body):
        return False
    if any(isinstance(node, nodes.Break) for node in _statements(loop.body)) or _goes_back(loop.iter):
        return False
    attributes = set(loop_attributes(loop))
    if not attributes <= LOOP_VALUES or (loop.test is not None and attributes & _AHEAD):
        return False
    if loop.target.name in {name.name for name in _names(macros)}:
        return False
    scope = [*loop.body, *macros]
    if any(_names_random(node) or any(_is_identity(test) for test in node.find_all(nodes.Test)) for node in scope):
        return False
    return not any(FORGETFUL & names_in(node) for node in scope)


def _goes_forward(loop: nodes.For, tree: nodes.Template) -> bool:
    """Tell whether *loop* is surely over the messages themselves, or those from some number on."""
    if loop.test is not None or not is_messages(loop.iter, tree):
        return False
    derived = derived_names(tree)
    targets: list[nodes.Node] = [assign.target for assign in tree.find_all(nodes.Assign)]
    targets += [block.target for block in tree.find_all(nodes.AssignBlock)]
    targets += [inner.target for inner in tree.find_all(nodes.For)]
    if any("messages" in names_in(target) for target in targets):
        return False
    sources = [assign.node for assign in tree.find_all(nodes.Assign) if derived & names_in(assign.target)]
    slices = [part for source in (loop.iter, *sources) for part in _with_self(source, nodes.Slice)]
    return all(
        part.stop is None and part.step is None and _is_number(part.start) and part.start.value >= 0  # type: ignore[union-attr]
        for part in slices
    )


def _goes_back(items: nodes.Node) -> bool:
    """Tell whether *items* are the messages backwards: then each has another number in each prompt."""
    found = [items, *items.find_all((nodes.Slice, nodes.Filter))]
    return any(
        (isinstance(node, nodes.Slice) and isinstance(node.step, nodes.Neg))
        or (isinstance(node, nodes.Filter) and node.name == "reverse")
        for node in found
    )


def _is_identity(test: nodes.Test) -> bool:
    """Tell whether *test* asks if two values are one, which nobody remembers."""
    return test.name == "sameas" and not all(isinstance(argument, nodes.Const) for argument in test.args)


def _names_random(node: nodes.Node) -> bool:
    return any(used.name == "random" for used in node.find_all(nodes.Filter))


def _stands_plainly(loop: nodes.For, body: list[nodes.Node]) -> bool:
    """Tell whether *loop* prints straight into the output: it stands in nothing but branches."""
    for node in body:
        if node is loop:
            return True
        if isinstance(node, nodes.If):
            branches = (node.body, *(other.body for other in node.elif_), node.else_)
            if any(_stands_plainly(loop, branch) for branch in branches):
                return True
    return False


def _statements(body: list[nodes.Node]) -> Iterator[nodes.Node]:
    """Yield the statements of *body* that belong to the loop around it, not to one within."""
    for node in body:
        yield node
        if isinstance(node, nodes.For):
            yield from _statements(node.else_)
        else:
            yield from _statements([child for child in node.iter_child_nodes() if isinstance(child, nodes.Stmt)])


def _namespaces(tree: nodes.Template) -> set[str]:
    """Return the names that only ever hold namespaces."""
    made: dict[str, bool] = {}
    own: set[str] = set()
    for assign in tree.find_all(nodes.Assign):
        call = assign.node
        if isinstance(assign.target, nodes.Name):
            is_space = isinstance(call, nodes.Call) and getattr(call.node, "name", "") == "namespace"
            made[assign.target.name] = made.get(assign.target.name, True) and is_space
        elif not isinstance(assign.target, nodes.NSRef):
            own |= names_in(assign.target)
    for block in tree.find_all(nodes.AssignBlock):
        own |= names_in(block.target)
    for loop in tree.find_all(nodes.For):
        own |= names_in(loop.target)
    own |= {argument.name for macro in tree.find_all(nodes.Macro) for argument in macro.args}
    own |= {name.name for node in tree.find_all(nodes.With) for target in node.targets for name in _names([target])}
    if "namespace" in made or "namespace" in own:
        return set()
    return {name for name, is_space in made.items() if is_space} - own


# numbers that are only compared


def _guard(loop: _Loop, spaces: set[str], macros: Sequence[nodes.Macro]) -> None:
    """Put ``_guarded`` around what the body of *loop* only ever compares with something.

    That is an attribute of a namespace, if the namespace is read by its attributes alone and this one is not set in
    the loop; and the length of a list.
    """
    scope = [*loop.node.body, *macros]
    kept_out = {f"{space.name}.{space.attr}" for node in scope for space in _with_self(node, nodes.NSRef)}
    own = {name.name for name in _names(loop.node.body) if name.ctx != "load"}
    places: dict[str, list[_Place]] = {}
    for statement in loop.node.body:
        for place in _places(statement, False):
            if (slot := _slot(place.child, spaces)) is not None:
                places.setdefault(slot, []).append(place)
            elif isinstance(place.child, nodes.Name):
                own |= {place.child.name} & spaces  # as a whole: who knows what is read of it then
    own |= {name.name for name in _names(macros)} & spaces
    for slot, found in places.items():
        name, _, attribute = slot.lstrip("#").partition(".")
        is_length = slot.startswith("#")
        if name not in loop.names or name in own or slot in kept_out:
            continue
        if is_length or all(place.compared for place in found):
            guarded = loop.names.index(name), LENGTH if is_length else attribute
            loop.guarded.add(guarded)
            for place in found:
                if place.compared:
                    place.guard(guarded)


def _slot(node: nodes.Node, spaces: set[str]) -> str | None:
    """Return how a number is called that may be guarded: ``namespace.attribute``, or ``#name`` for a length."""
    inner = getattr(node, "node", None)
    if not isinstance(inner, nodes.Name):
        return None
    if isinstance(node, nodes.Filter):
        return f"#{inner.name}" if node.name in _LENGTHS and not (node.args or node.kwargs) else None
    return f"{inner.name}.{node.attr}" if isinstance(node, nodes.Getattr) and inner.name in spaces else None


class _Place(NamedTuple):
    """Where an expression stands, and whether it is compared there, maybe after an addition."""

    parent: nodes.Node
    attribute: str
    at: int | None
    child: nodes.Node
    compared: bool

    def guard(self, guarded: Guarded) -> None:
        """Put ``_guarded`` around the expression; around the list itself, where its length is meant."""
        position, what = guarded
        read = getattr(self.child, "node", None) if what == LENGTH else self.child
        made = nodes.Filter(read, "_guarded", [nodes.Const(position), nodes.Const(what)], [], None, None)
        if self.at is None:
            setattr(self.parent, self.attribute, made)
        else:
            getattr(self.parent, self.attribute)[self.at] = made


def _places(node: nodes.Node, compared: bool) -> Iterator[_Place]:
    """Yield the place of each expression below *node*, which itself is *compared* or not."""
    for attribute in node.fields:
        value = getattr(node, attribute, None)
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, nodes.Node):
                passed = _is_compared(child, node, compared)
                yield _Place(node, attribute, index, child, passed)
                if not (isinstance(child, nodes.Getattr) and isinstance(child.node, nodes.Name)):
                    yield from _places(child, passed)


def _is_compared(child: nodes.Node, parent: nodes.Node, parent_is: bool) -> bool:
    if isinstance(parent, nodes.Compare):
        return len(parent.ops) == 1 and parent.ops[0].op in _ORDERED
    if isinstance(parent, nodes.Sub):
        return parent_is and child is parent.left and _is_number(parent.right)
    if isinstance(parent, nodes.Add):
        return parent_is and _is_number(parent.right if child is parent.left else parent.left)
    return parent_is and isinstance(parent, nodes.Operand)


def _is_number(node: nodes.Node | None) -> bool:
    return isinstance(node, nodes.Const) and type(node.value) is int


# asking


def _ask(loop: _Loop) -> None:
    """Put the questions to the memory around the body of *loop*."""
    target = getattr(loop.node.target, "name", "")
    read: list[nodes.Expr] = [nodes.Getattr(nodes.Name("loop", "load"), name, "load") for name in loop.attributes]
    read += [nodes.Name(name, "load") for name in loop.names]
    context: nodes.Expr = nodes.Name("loop", "load") if loop.attributes else nodes.Const(None)
    arguments = [nodes.Const(loop.number), context, nodes.Const(len(loop.attributes)), *read]
    recall = nodes.Filter(nodes.Name(target, "load"), "_recall", arguments, [], None, None)
    missed = nodes.Filter(nodes.Const(0), "_missed", [], [], None, None)
    body = [*_keeping(loop.node.body), _kept()]
    loop.node.body = [nodes.Output([recall]), nodes.If(missed, body, [], [])]


def _kept() -> nodes.Node:
    return nodes.Output([nodes.Filter(nodes.Const(0), "_keep", [], [], None, None)])


def _keeping(body: list[nodes.Node]) -> list[nodes.Node]:
    """Return *body* with ``_keep`` before each ``continue`` of the loop around it."""
    made: list[nodes.Node] = []
    for node in body:
        if isinstance(node, nodes.Continue):
            made.append(_kept())
        elif isinstance(node, nodes.If):
            for branch in (node, *node.elif_):
                branch.body = _keeping(branch.body)
            node.else_ = _keeping(node.else_)
        elif isinstance(node, nodes.For):
            node.else_ = _keeping(node.else_)
        made.append(node)
    return made
