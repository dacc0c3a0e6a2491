"""Rendering a conversation with a chat template, and finding the text that is trained.

The template is used as it is, and asked three kinds of question: how the whole conversation
reads, how the prompt of each assistant turn reads at serving time, and how the conversation
reads up to the turn's end. A turn is labelled only where the answers fit together; where
they do not, the row is refused with the reason, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sftcore.errors import RowError
from sftcore.types import Conversation

Render = Callable[[list[dict[str, Any]], bool], str]
"""``render(messages, add_generation_prompt)`` returns the text of *messages*."""


class Rendered(NamedTuple):
    """A conversation as text.

    ``spans`` are the half-open character ranges that are trained: what the model writes
    in each assistant turn, with the stop string that ends it.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


def renderer(tokenizer: Any, conversation: Conversation) -> Render:
    """Return the :data:`Render` that *tokenizer*'s own ``apply_chat_template`` gives for *conversation*."""
    tools = list(conversation.tools) or None

    def render(messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        text = tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        assert isinstance(text, str)
        return text

    return render


def render_conversation(conversation: Conversation, render: Render, stops: Sequence[str]) -> Rendered:
    """Render *conversation* and find its trained spans.

    Args:
        render: how messages become text.
        stops: the strings that end an assistant turn.

    Raises:
        RowError: the template refuses the conversation, or a turn cannot be labelled with certainty.
    """
    messages = [message.as_dict() for message in conversation.messages]
    try:
        text = render(messages, False)
        spans = tuple(
            _turn(messages, index, text, render, stops)
            for index, message in enumerate(messages)
            if message["role"] == "assistant"
        )
    except RowError:
        raise
    except Exception as error:  # whatever a template's code raises: jinja2.TemplateError, TypeError, ...
        raise RowError(f"the chat template refuses it: {error}") from None
    return Rendered(text, spans)


def _turn(
    messages: list[dict[str, Any]], index: int, text: str, render: Render, stops: Sequence[str]
) -> tuple[int, int]:
    """Return where in *text* the model's own words of assistant turn *index* begin and end."""
    if not index:
        raise RowError("message 1: the assistant speaks first, so there is no prompt to serve the turn with")
    prompt = render(messages[:index], True)
    if not text.startswith(prompt):
        raise RowError(
            f"message {index + 1}: at serving time its prompt would read otherwise than in the whole conversation "
            "(the template writes earlier turns differently later), so it cannot be trained as it would be served"
        )
    start = len(prompt)
    block_end, stop_pending = _block_end(messages, index, text, render, stops)
    if block_end < start:
        raise RowError(
            f"message {index + 1}: the template adds to the generation prompt what it does not print for the turn"
        )
    block = text[start:block_end].rstrip()
    content = messages[index]["content"].strip()
    if content not in block:
        raise RowError(
            f"message {index + 1}: the template changes the assistant's text, so it cannot be located with certainty"
        )
    for call in messages[index].get("tool_calls", ()):
        if (name := call["function"]["name"]) not in block:
            raise RowError(f"message {index + 1}: the template does not print the call of '{name}'")
    words, stop = _split_stop(block, content, stops)
    plain = content and not messages[index].keys() & {"reasoning_content", "tool_calls"}
    header = words[: max(words.rfind(content), 0)].strip() if plain else ""
    if header and prompt == render(messages[:index], False):
        raise RowError(
            f"message {index + 1}: the template has no generation prompt, yet prints {header!r} before the turn"
        )
    if stop:
        return start, start + len(words) + len(stop)
    for stop in stops:  # the stop string may be what opens the next turn
        if text.startswith(stop, block_end):
            return start, block_end + len(stop)
    if stop_pending:
        return start, block_end
    known = ", ".join(map(repr, stops)) or "none is known"
    raise RowError(f"message {index + 1}: the template prints no stop string after the turn (looked for: {known})")


def _split_stop(block: str, content: str, stops: Sequence[str]) -> tuple[str, str]:
    """Return what stands in *block* before the stop string that ends it, and that string; if none does, all and "".

    Where several follow each other it is the first, at which the model ends: Phi-3, for one, closes
    a turn with ``<|end|>`` and the whole conversation with a second token.
    """
    stop = max((stop for stop in stops if block.endswith(stop)), key=len, default="")
    words = block.removesuffix(stop)
    if stop:
        earlier = _split_stop(words.rstrip(), content, stops)
        if earlier[1] and content in earlier[0]:
            return earlier
    return words, stop


def _block_end(
    messages: list[dict[str, Any]], index: int, text: str, render: Render, stops: Sequence[str]
) -> tuple[int, bool]:
    """Return where the rendering of turn *index* ends in *text*.

    The second value tells that the template ends the turn with a stop string only where it
    ends the conversation, so that here none is due.
    """
    if index == len(messages) - 1:
        return len(text), False
    until = render(messages[: index + 1], False)
    if text.startswith(until):
        return len(until), False
    for stop in stops:
        if until.endswith(stop) and text.startswith(until.removesuffix(stop)):
            return len(until) - len(stop), True
    raise RowError(
        f"message {index + 1}: the template writes it otherwise once the conversation goes on, so its end is uncertain"
    )
