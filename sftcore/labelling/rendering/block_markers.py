"""Changes of a template's syntax tree: marks where the printing of a message begins and ends, and calls for ``~``."""

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from jinja2.visitor import NodeTransformer


class _Concatenations(NodeTransformer):
    def visit_Concat(self, node: nodes.Concat, *args: Any) -> nodes.Node:
        self.generic_visit(node)
        return _call("concatenated", *node.nodes)


def concatenations_called(tree: nodes.Template) -> None:
    """Replace each ``a ~ b`` in *tree* by a call of ``environment.concatenated``."""
    _Concatenations().visit(tree)


def with_block_markers(body: list[nodes.Node], leaving: list[nodes.Expr]) -> list[nodes.Node]:
    """Add marks to the loops of *body* where the printing of a message begins, and where it ends.

    Args:
        leaving: the expressions that are left on ``continue`` and ``break``: messages of the loop around.
    """
    marked: list[nodes.Node] = []
    for node in body:
        if isinstance(node, nodes.For):
            entering, names = _entered(node)
            left: list[nodes.Expr] = [*(nodes.Name(name, "load") for name in names), *entering]
            inner: list[nodes.Node] = []
            for statement in with_block_markers(node.body, left):
                inner.append(statement)
                if isinstance(statement, nodes.Assign) and (name := getattr(statement.target, "name", None)) in names:
                    inner.append(_mark("enter", nodes.Name(name, "load")))
            node.body = [
                *(_mark("enter", value) for value in entering),
                *inner,
                *(_mark("exit", value) for value in left),
            ]
            node.else_ = with_block_markers(node.else_, leaving)
        elif isinstance(node, (nodes.Continue, nodes.Break)):
            marked.extend(_mark("exit", value) for value in leaving)
        elif isinstance(node, nodes.If):
            for branch in (node, *node.elif_):
                branch.body = with_block_markers(branch.body, leaving)
            node.else_ = with_block_markers(node.else_, leaving)
        elif isinstance(body_of := getattr(node, "body", None), list):
            vars(node)["body"] = with_block_markers(body_of, [] if isinstance(node, nodes.Macro) else leaving)
        marked.append(node)
    return marked


def _entered(loop: nodes.For) -> tuple[list[nodes.Expr], list[str]]:
    """Expressions that may be a message from the beginning of an iteration of *loop*, and names that are set in it.

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
    entering: list[nodes.Expr] = [nodes.Name(target, "load")]
    items = (item for statement in loop.body for item in statement.find_all(nodes.Getitem))
    for item in items if not names else ():
        if (
            isinstance(item.node, nodes.Name)
            and "messages" in item.node.name
            and getattr(item.arg, "name", "") == target
        ):
            of, number = nodes.Name(item.node.name, "load"), nodes.Name(target, "load")
            entering.append(nodes.Getitem(of, number, "load"))
            break
    return entering, list(dict.fromkeys(names))


def _mark(name: str, value: nodes.Expr) -> nodes.Node:
    return nodes.Output([_call(name, value)])


def _call(method: str, *args: nodes.Expr) -> nodes.Expr:
    return nodes.Call(nodes.EnvironmentAttribute(method), list(args), [], None, None)
