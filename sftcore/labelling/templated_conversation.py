"""One conversation under one template: its renderings, and the prompts of its turns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sftcore.core.errors import RowError
from sftcore.core.types import Message
from sftcore.labelling.layout import Layout
from sftcore.labelling.rendering.renderer import ChatTemplate

SWITCHES = ("enable_thinking", "thinking", "reasoning")
"""Variables by which templates of reasoning models choose between prompts."""


class TemplatedConversation:
    """One conversation under one template: its renderings and the prompts of its turns.

    Args:
        messages: as the template gets them, of :func:`to_template_fields`.
        variables: further variables of the template.
        constant_prompts: generation prompts that are the same for all turns, by variables; filled here.
    """

    def __init__(
        self,
        template: ChatTemplate,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
        constant_prompts: dict[str, str],
    ) -> None:
        self.template = template
        self.messages = messages
        self.tools = tools
        self.variables = variables
        self._constant_prompts = constant_prompts
        self._prompts: dict[tuple[int, str], str | None] = {}

    def render(self, messages: int, add_generation_prompt: bool = False, switch: str = "") -> str:
        """The first *messages* messages as text, with a *switch* of :meth:`switches`.

        Raises:
            RowError: the template rejects them.
        """
        given = self.messages[:messages]
        return self.template.render(given, self.tools, add_generation_prompt, **self._switched(switch))

    def layout(self, messages: int, add_generation_prompt: bool = False, switch: str = "") -> Layout:
        """As :meth:`render`, with the origin of each part."""
        given = self.messages[:messages]
        return Layout(self.template.trace(given, self.tools, add_generation_prompt, **self._switched(switch)), given)

    def verify(self, layout: Layout, messages: int) -> None:
        """Raise :class:`RowError` if *layout*, of the first *messages* messages, differs from a plain rendering."""
        if layout.text != self.render(messages):
            raise RowError("the template prints tracked text differently from plain text, so its labels are uncertain")

    def prompt(self, message: int, switch: str = "") -> str | None:
        """The prompt of *message* at inference; None if the template rejects the messages before it."""
        key = (message, switch)
        if key not in self._prompts:
            try:
                self._prompts[key] = self.render(message, True, switch)
            except RowError:
                self._prompts[key] = None
        return self._prompts[key]

    def generation_prompt(self, message: int) -> str:
        """The text that ``add_generation_prompt`` adds before *message*; '' if it changes what is printed before."""
        try:
            bare = self.render(message)
        except RowError:
            return ""
        prompt = self.prompt(message) or ""
        return prompt[len(bare) :] if prompt.startswith(bare) else ""

    def reads_tools(self, text: str) -> bool:
        """Whether *text*, the rendering of the conversation, depends on the tools."""
        try:
            return self.template.render(self.messages, None, **self.variables) != text
        except RowError:
            return True

    def constant_prompt_end(self, message: int, layout: Layout) -> int | None:
        """The start of *message* if the template has a constant prompt, without a rendering of it; None otherwise.

        What was printed before the template knew of the message is the same in its prompt, and what
        follows is the same in every prompt.
        """
        if not self.template.constant_prompt or message >= len(layout.known):
            return None
        known = layout.known[message]
        if not message or known is None:
            return None
        key = repr(self.variables)
        if key not in self._constant_prompts:
            prompt = self.prompt(message)
            if prompt is None or not prompt.startswith(layout.text[:known]):
                return None
            self._constant_prompts[key] = prompt[known:]
        tail = self._constant_prompts[key]
        return known + len(tail) if layout.text.startswith(tail, known) else None

    def switches(self) -> list[str]:
        """Other settings of the switches that the template has, as ``name=true``."""
        return [
            f"{name}={value}"
            for name in SWITCHES
            if name in self.template.variables
            for value in ("false", "true")
            if self.variables.get(name) is not (value == "true")
        ]

    def _switched(self, switch: str) -> Mapping[str, Any]:
        name, _, value = switch.partition("=")
        return {**self.variables, name: value == "true"} if name else self.variables


def to_template_fields(message: Message, text_arguments: bool = False) -> dict[str, Any]:
    """The fields of *message* as ``apply_chat_template`` passes them to a template."""
    fields = message.to_dict()
    if text_arguments and "tool_calls" in fields:
        fields["tool_calls"] = [_with_text_arguments(call) for call in fields["tool_calls"]]
    if "reasoning_content" in fields:  # transformers fills the name that gpt-oss templates read
        fields = {"thinking": fields["reasoning_content"], **fields}
    return fields


def _with_text_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    if isinstance(function["arguments"], str):
        return dict(call)
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
