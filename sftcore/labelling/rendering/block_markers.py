"""Marks in a template's syntax tree: where the printing of a message begins, and where it ends."""

from __future__ import annotations

import functools
from collections.abc import Callable

from jinja2 import nodes

MakeNode = Callable[[], nodes.Expr]


def with_marks(body: list[nodes.Node], leaving: list[MakeNode]) -> list[nodes.Node]:
    """Return *body* with marks in its loops: where the printing of a message begins, and where it ends.

    *leaving* makes what is left on ``continue`` and ``break``: the messages that the loop around is in.
    """
    marked: list[nodes.Node] = []
    for node in body:
        if isinstance(node, nodes.For):
            entering, names = _entered(node)
            left: list[MakeNode] = [*(functools.partial(nodes.Name, name, "load") for name in names), *entering]
            inner: list[nodes.Node] = []
            for statement in with_marks(node.body, left):
                inner.append(statement)
                if isinstance(statement, nodes.Assign) and (name := getattr(statement.target, "name", None)) in names:
                    inner.append(_mark(nodes.Name(name, "load"), "_enter"))
            entries = entering or [functools.partial(nodes.Const, 0)]  # each iteration is counted
            node.body = [
                *(_mark(make(), "_enter") for make in entries),
                *inner,
                *(_mark(make(), "_exit") for make in left),
            ]
            node.else_ = with_marks(node.else_, leaving)
            if node.test is not None:  # `for ... if ...` skips many an iteration that would be counted
                node.test = nodes.And(nodes.Filter(nodes.Const(0), "_step", [], [], None, None), node.test)
        elif isinstance(node, (nodes.Continue, nodes.Break)):
            marked.extend(_mark(make(), "_exit") for make in leaving)
        elif isinstance(node, nodes.If):
            for branch in (node, *node.elif_):
                branch.body = with_marks(branch.body, leaving)
            node.else_ = with_marks(node.else_, leaving)
        elif isinstance(body_of := getattr(node, "body", None), list):
            vars(node)["body"] = with_marks(body_of, [] if isinstance(node, nodes.Macro) else leaving)
        marked.append(node)
    return marked


def _entered(loop: nodes.For) -> tuple[list[MakeNode], list[str]]:
    """Return what may be a message in an iteration of *loop*: from its beginning, and names that are set in it.

    These are the loop's variable, what is set from an item of a list (``set message = messages[i]``), or,
    where nothing is set, such an item by the loop's number.
    """
    if not isinstance(loop.target, nodes.Name):
        return [], []
    target = loop.target.name
    names = [
        statement.target.name
        for statement in loop.body
        if isinstance(statement, nodes.Assign)
        and isinstance(statement.target, nodes.Name)
        and isinstance(statement.node, nodes.Getitem)
    ]
    entering: list[MakeNode] = [functools.partial(nodes.Name, target, "load")]
    items = (item for statement in loop.body for item in statement.find_all(nodes.Getitem))
    for item in items if not names else ():
        if (
            isinstance(item.node, nodes.Name)
            and "messages" in item.node.name
            and getattr(item.arg, "name", "") == target
        ):
            entering.append(functools.partial(_item, item.node.name, target))
            break
    return entering, list(dict.fromkeys(names))


def _item(of: str, number: str) -> nodes.Expr:
    return nodes.Getitem(nodes.Name(of, "load"), nodes.Name(number, "load"), "load")


def _mark(value: nodes.Expr, name: str) -> nodes.Node:
    return nodes.Output([nodes.Filter(value, name, [], [], None, None)])
