"""A chat template, unmodified: rendered plainly, or with the origin of every character."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jinja2
from jinja2.meta import find_undeclared_variables

from sftcore.core.errors import RowError
from sftcore.labelling.rendering.constant_prompt import has_constant_prompt
from sftcore.labelling.rendering.limits import CHARACTERS, LimitError
from sftcore.labelling.rendering.message_view import Message, Messages, Watch, tagged
from sftcore.labelling.rendering.provenance import LITERAL, Tracked
from sftcore.labelling.rendering.sandbox import Compiled, Sandbox

_SAID = 500
"""How much of a template's own error message is shown."""


class Piece(NamedTuple):
    """A stretch of a rendering that is not the template's own: characters from *start* to *end*, with their tag."""

    start: int
    end: int
    tag: int


class Rendering(NamedTuple):
    """A conversation as text.

    ``known[i]`` is how much was printed before the template first learned anything of message *i*, or that
    there is one. That much is printed the same whatever follows message *i - 1*, if anything does.
    None where the template's one loop over the messages was not what asked for it.
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
        ValueError: it is no valid template; the message says where.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._compiled = _compiled(source)
        self.tree = self._compiled.tree
        self.constant_prompt = has_constant_prompt(self.tree)
        self.variables = frozenset(find_undeclared_variables(self.tree))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        **kwargs: Any,
    ) -> str:
        """Return *messages* as text, as ``apply_chat_template(..., tokenize=False)`` does.

        Raises:
            RowError: the template refuses them, fails, or uses more than a template may.
        """
        variables = _variables(messages, tools, add_generation_prompt, kwargs)
        return self._run({**variables, "messages": list(messages)}, None)[0]

    def trace(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        **kwargs: Any,
    ) -> Rendering:
        """Return *messages* as text, with the origin of its characters.

        Raises:
            RowError: as :meth:`render`.
        """
        watch = Watch()
        variables = _variables(Messages(tagged(messages), watch), tools, add_generation_prompt, kwargs)
        return _rendering(*self._run(variables, watch), watch)

    def _run(self, variables: Mapping[str, Any], watch: Watch | None) -> tuple[str, list[Piece]]:
        sandbox = self._compiled.sandbox
        with sandbox.lock:
            sandbox.meter.start()
            try:
                return self._collect(self._compiled.template, variables, watch)
            except (jinja2.TemplateError, LimitError) as error:
                raise RowError(f"the chat template refuses it: {_plainly(error)}") from None
            except RecursionError:
                raise RowError("the chat template calls itself without end") from None
            except Exception as error:  # whatever else the code of a template may raise
                raise RowError(f"the chat template fails: {type(error).__name__}: {_plainly(error)}") from None

    def _collect(
        self, template: jinja2.Template, variables: Mapping[str, Any], watch: Watch | None
    ) -> tuple[str, list[Piece]]:
        texts: list[str] = []
        pieces: list[Piece] = []
        at = 0
        for text in template.root_render_func(template.new_context(dict(variables))):
            texts.append(text)
            if type(text) is Tracked:
                for length, tag in text._runs:
                    if tag != LITERAL:
                        pieces.append(Piece(at, at + length, tag))
                    at += length
            else:
                at += len(text)
            if at > 4 * CHARACTERS:
                raise LimitError("the chat template prints beyond every measure")
            if watch is not None:
                watch.printed = at
        return "".join(texts), pieces


def _plainly(error: Exception) -> str:
    """Return the text of *error* as it would be for plain values."""
    text = str(error)
    for ours, plain in ((Messages, "list"), (Message, "dict"), (Tracked, "str")):
        text = text.replace(f"{ours.__module__}.{ours.__name__} object", f"{plain} object")
        text = text.replace(f"'{ours.__name__}'", f"'{plain}'")
    return text[:_SAID]


def _variables(
    messages: object,
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
    further: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "documents": None,
        **further,
        "messages": messages,
        "tools": tools,
        "add_generation_prompt": add_generation_prompt,
    }


def _rendering(text: str, pieces: list[Piece], watch: Watch) -> Rendering:
    if watch.loops == 1:
        known = [at if by_loop else None for at, by_loop in zip(watch.known, watch.by_loop, strict=True)]
    else:
        known = [None] * len(watch.known)
    return Rendering(text, pieces, known)


@lru_cache(maxsize=64)
def _compiled(source: str) -> Compiled:
    try:
        return Sandbox().compile_template(source)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"line {error.lineno}: {error.message}") from None
    except (LimitError, RecursionError, jinja2.TemplateError, SyntaxError, MemoryError) as error:
        raise ValueError(str(error) or type(error).__name__) from None
