"""Static analysis of templates: whether the generation prompt is the same for every turn, and need not be rendered.

It is if the template is one loop over the messages, and nothing after the loop depends on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jinja2 import nodes

_PROMPT = "add_generation_prompt"
_NOT_CONSTANT = frozenset({"messages", "tools", "documents", "loop", "caller", "varargs", "kwargs", "self"})
_BACKWARD = frozenset({"index", "index0", "first", "previtem"})
"""Attributes of ``loop`` that do not depend on later items."""


_SAME_FOR_SAME = frozenset({"d", "default", "lower", "string", "tojson", "trim", "upper"})
"""Filters that a constant prompt may use."""


def has_constant_prompt(tree: nodes.Template) -> bool:
    """Whether the prompt follows the only loop over the messages and depends on none of them."""
    assigned = _assigned(tree)
    derived = _derived_names(tree)
    loops = [found for found in _statement_loops(tree.body, []) if derived & names_in(found[0].iter)]
    if len(loops) != 1:
        return False
    loop, after = loops[0]
    if loop.recursive or loop.else_ or not _is_messages(loop.iter, tree):
        return False
    if not all(_is_constant(node, assigned) for node in after):
        return False
    if not all(name in _BACKWARD for name in _loop_attributes(loop)):
        return False
    inside = sum(name.name == _PROMPT for node in after for name in node.find_all(nodes.Name))
    everywhere = sum(name.name == _PROMPT for name in tree.find_all(nodes.Name))
    return inside == everywhere - sum(_defaults(node) for node in tree.body)


def _assigned(tree: nodes.Template) -> set[str]:
    """Names that the template assigns."""
    names = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    names |= {macro.name for macro in tree.find_all(nodes.Macro)}
    names |= {reference.name for reference in tree.find_all(nodes.NSRef)}
    return names - {_PROMPT}


def _defaults(node: nodes.Node) -> int:
    """Number of times *node* names the switch of the prompt, if it sets its default (``if not x is defined``)."""
    if not isinstance(node, nodes.If) or node.elif_ or node.else_:
        return 0
    sets = all(isinstance(inner, nodes.Assign) and getattr(inner.target, "name", "") == _PROMPT for inner in node.body)
    names = [name.name for name in node.find_all(nodes.Name)]
    return len(names) if sets and set(names) == {_PROMPT} else 0


def _statement_loops(body: list[nodes.Node], after: list[nodes.Node]) -> Iterator[tuple[nodes.For, list[nodes.Node]]]:
    """Yield the outermost loops, each with all statements that may run after it."""
    for index, node in enumerate(body):
        rest = [*body[index + 1 :], *after]
        if isinstance(node, nodes.For):
            yield node, rest
        elif isinstance(node, nodes.If):
            for branch in (node.body, *(other.body for other in node.elif_), node.else_):
                yield from _statement_loops(branch, rest)
        elif isinstance(getattr(node, "body", None), list):
            for loop in node.find_all(nodes.For):  # in a macro, a block, ...: it may run at any time
                yield loop, [node]


def _derived_names(tree: nodes.Template) -> set[str]:
    """Names of values that may be derived from the messages."""
    made = [(names_in(assign.node), names_in(assign.target)) for assign in tree.find_all(nodes.Assign)]
    derived = {"messages"}
    known = 0
    while known != len(derived):
        known = len(derived)
        for read, names in made:
            if derived & read:
                derived |= names
    return derived


def _is_messages(expression: nodes.Node, tree: nodes.Template) -> bool:
    """Whether *expression* is the messages or a slice of them, and not a copy that reads all of them."""
    targets = [loop.target for loop in tree.find_all(nodes.For)]
    targets += [block.target for block in tree.find_all(nodes.AssignBlock)]
    others = {name for target in targets for name in names_in(target)}
    values: dict[str, list[nodes.Node]] = {}
    for assign in tree.find_all(nodes.Assign):
        for name in names_in(assign.target):
            values.setdefault(name, []).append(assign.node)
    waiting: list[nodes.Node | None] = [expression]
    seen = {"messages"}
    while waiting:
        value = waiting.pop()
        if isinstance(value, nodes.CondExpr):
            waiting += [value.expr1, value.expr2]
        elif isinstance(value, nodes.Getitem) and isinstance(value.arg, nodes.Slice):
            waiting.append(value.node)
        elif not isinstance(value, nodes.Name):
            return False
        elif value.name not in seen:
            if value.name in others or value.name not in values:
                return False
            seen.add(value.name)
            waiting += values[value.name]
    return True


def names_in(node: nodes.Node) -> set[str]:
    """Names in *node*, including itself."""
    return {name.name for name in _within(node, nodes.Name, nodes.NSRef)}


def _within(node: nodes.Node, *kinds: type[nodes.Node]) -> Iterator[Any]:
    """Yield the nodes of these *kinds* in *node*, including itself."""
    if isinstance(node, kinds):
        yield node
    yield from node.find_all(kinds)


def _is_constant(node: nodes.Node, assigned: set[str]) -> bool:
    """Whether *node* prints the same for all conversations with the same variables."""
    if isinstance(node, nodes.If):
        branches = (*node.body, *node.elif_, *node.else_)
        return _is_free(node.test, assigned) and all(_is_constant(inner, assigned) for inner in branches)
    return isinstance(node, nodes.Output) and all(_is_free(inner, assigned) for inner in node.nodes)


def _is_free(expression: nodes.Node, assigned: set[str]) -> bool:
    """Whether *expression* depends on nothing but its names: it has no calls and no random choice."""
    if names_in(expression) & (assigned | _NOT_CONSTANT) or any(_within(expression, nodes.Call, nodes.CallBlock)):
        return False
    return all(used.name in _SAME_FOR_SAME for used in _within(expression, nodes.Filter))


def _loop_attributes(loop: nodes.For) -> Iterator[str]:
    """Yield the attributes of ``loop`` that the body of *loop* reads, without nested loops; '' for ``loop`` itself."""
    waiting: list[nodes.Node] = [*loop.body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, nodes.Getattr) and getattr(node.node, "name", "") == "loop":
            yield node.attr
        elif isinstance(node, nodes.Name) and node.name == "loop":
            yield ""
        elif isinstance(node, nodes.For):
            waiting.extend([node.iter, *([node.test] if node.test else []), *node.else_])
        else:
            waiting.extend(node.iter_child_nodes())
