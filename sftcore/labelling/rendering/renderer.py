"""Rendering of an unmodified chat template: plain, or with the origin of every character."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.meta import find_undeclared_variables

from sftcore.core.errors import RowError
from sftcore.labelling.rendering.constant_prompt import has_constant_prompt
from sftcore.labelling.rendering.limits import CHARACTERS, LimitError, check_length, timed, try_in_child
from sftcore.labelling.rendering.message_view import AccessLog, Messages, TemplateMessage, tag_messages
from sftcore.labelling.rendering.provenance import LITERAL, Tracked, runs_of
from sftcore.labelling.rendering.sandbox import PRIVATE, Sandbox, TracingSandbox
from sftcore.runtime.private_api import check_private_names

_Result = TypeVar("_Result")

_PLAIN, _TRACING = Sandbox(), TracingSandbox()

_SHOWN = 500
"""How much of a template's own error message is shown, in characters."""

CALL = {"id": "callone12", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "number", "description": "A number."}}},
    },
}
"""A call and the tool, as templates get them."""

_SAMPLES: tuple[tuple[list[Mapping[str, Any]], list[Mapping[str, Any]] | None], ...] = (
    (
        [
            {"role": "user", "content": string.printable},
            {"role": "assistant", "content": "Three of them."},
            {"role": "user", "content": "And of two and two?"},
            {"role": "assistant", "content": "Four of them.", "reasoning_content": "It is easy."},
        ],
        None,
    ),
    (
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is the sum of one and two?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "3", "name": "add", "tool_call_id": "callone12"},
        ],
        [TOOL],
    ),
)
"""Conversations and tools with which a template is tried."""


class Piece(NamedTuple):
    """Characters of a rendering from *start* to *end* that are not the template's own, with their tag."""

    start: int
    end: int
    tag: int


class Rendering(NamedTuple):
    """A conversation as text.

    Attributes:
        text: the rendering.
        pieces: what of it comes from messages, in order.
        known: for each message the number of characters that were printed before the template knew that it exists; they
            do not depend on it or later messages. None if a loop over the messages, the only one, did not access it.
    """

    text: str
    pieces: list[Piece]
    known: list[int | None]


class ChatTemplate:
    """A chat template that can be rendered safely.

    Args:
        source: the Jinja source, as ``tokenizer.chat_template`` has it.

    Attributes:
        tree: its syntax tree.
        constant_prompt: whether the source proves that every generation prompt is the same.
        variables: the names that the template reads and does not set itself.

    Raises:
        ValueError: the template is not valid, with the line; or it exceeds a limit with a small conversation.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._plain, self._tracing, self.tree = _checked(source)
        self.constant_prompt = has_constant_prompt(self.tree)
        self.variables = frozenset(find_undeclared_variables(self.tree))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        **kwargs: Any,
    ) -> str:
        """The text of *messages*, as ``apply_chat_template(..., tokenize=False)`` gives it.

        Raises:
            RowError: the template rejects them, fails, or exceeds a limit.
        """
        return _run(partial(_render, self._plain, messages, tools, add_generation_prompt, kwargs))

    def trace(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        **kwargs: Any,
    ) -> Rendering:
        """As :meth:`render`, with the origin of the characters."""
        return _run(partial(_trace, self._tracing, messages, tools, add_generation_prompt, kwargs))


def _printed(
    template: jinja2.Template,
    messages: object,
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
    further: Mapping[str, Any],
) -> Iterator[str]:
    """Yield what *template* prints, in parts; raises what Jinja and the template raise."""
    given = {"messages": messages, "tools": tools, "add_generation_prompt": add_generation_prompt}
    length = 0
    for text in template.root_render_func(template.new_context({"documents": None, **further, **given})):
        length += len(text)
        check_length(length, 4 * CHARACTERS)
        yield text


def _render(template: jinja2.Template, messages: Sequence[Mapping[str, Any]], *given: Any) -> str:
    return "".join(_printed(template, list(messages), *given))


def _trace(template: jinja2.Template, messages: Sequence[Mapping[str, Any]], *given: Any) -> Rendering:
    log = AccessLog()
    texts: list[str] = []
    pieces: list[Piece] = []
    at = 0
    for text in _printed(template, Messages(tag_messages(messages), log), *given):
        texts.append(text)
        for length, tag in runs_of(text):
            if tag != LITERAL:
                pieces.append(Piece(at, at + length, tag))
            at += length
        log.printed = at
    return Rendering("".join(texts), pieces, log.known if log.loops == 1 else [None] * len(log.known))


def _run(render: Callable[[], _Result]) -> _Result:
    """The result of *render*, in time, or its error as one of the row."""
    try:
        return timed(render)
    except LimitError as error:
        raise RowError(f"the chat template cannot be rendered: {error}") from None
    except jinja2.TemplateError as error:
        raise RowError(f"the chat template rejects it: {_plainly(error)}") from None
    except RecursionError:
        raise RowError("the chat template recurses without end") from None
    except MemoryError:
        raise RowError("the chat template runs out of memory") from None
    except Exception as error:  # whatever else the code of a template may raise
        raise RowError(f"the chat template fails: {type(error).__name__}: {_plainly(error)}") from None


def _plainly(error: Exception) -> str:
    """The text of *error* as it would be for plain values."""
    text = str(error)
    for ours, plain in ((Messages, "list"), (TemplateMessage, "dict"), (Tracked, "str")):
        text = text.replace(f"{ours.__module__}.{ours.__name__} object", f"{plain} object")
        text = text.replace(f"'{ours.__name__}'", f"'{plain}'")
    return text[:_SHOWN]


@cache
def _check_jinja() -> None:
    check_private_names("jinja2", *PRIVATE)


_Compiled = tuple[jinja2.Template, jinja2.Template, nodes.Template]
"""A template for the plain and for the tracing environment, and its syntax tree as it was written."""


@lru_cache(maxsize=64)
def _checked(source: str) -> _Compiled:
    """The compiled template, once it was tried."""
    _check_jinja()
    try:
        try_in_child(partial(_try, source))
        return compile_template(source)
    except LimitError as error:
        raise ValueError(f"the chat template cannot be used: {error}") from None
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"line {error.lineno}: {error.message}") from None
    except (RecursionError, jinja2.TemplateError, SyntaxError, MemoryError) as error:
        raise ValueError(str(error) or type(error).__name__) from None


def compile_template(source: str, plain: Sandbox = _PLAIN, tracing: Sandbox = _TRACING) -> _Compiled:
    """Compile a template for two environments; raises as :meth:`Sandbox.load`."""
    return plain.load(source), tracing.load(source), _PLAIN.parse(source)


def _try(source: str) -> Iterator[None]:
    """Analyse a template, and render it with small conversations; continue after errors other than of memory."""
    plain, tracing, tree = compile_template(source)
    has_constant_prompt(tree)
    for messages, tools in _SAMPLES:
        for render in (partial(_render, plain), partial(_trace, tracing)):
            yield
            try:
                render(messages, tools, True, {})
            except MemoryError:
                raise
            except Exception as error:
                _plainly(error)
