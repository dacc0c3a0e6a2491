"""One conversation under one template: its renderings, and the prompts of its turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sftcore.core.errors import RowError
from sftcore.labelling.layout import Layout
from sftcore.labelling.rendering.renderer import ChatTemplate

SWITCHES = ("enable_thinking", "thinking", "reasoning")
"""Variables by which templates of reasoning models choose between prompts."""


class TemplatedConversation:
    """One conversation under one template: its renderings and the prompts of its turns.

    Args:
        messages: as the template gets them.
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

    def layout(self, messages: int) -> Layout:
        """The rendering of the first *messages* messages.

        Raises:
            RowError: the template rejects them.
        """
        return Layout(
            self.template.trace(self.messages[:messages], self.tools, **self.variables), self.messages[:messages]
        )

    def verify(self, layout: Layout, messages: int) -> None:
        """Check that *layout*, of the first *messages* messages, has the same text as a plain rendering.

        Raises:
            RowError: it has not.
        """
        if layout.text != self.template.render(self.messages[:messages], self.tools, **self.variables):
            raise RowError("the template prints tracked text differently from plain text, so its labels are uncertain")

    def prompt(self, message: int, switch: str = "") -> str | None:
        """The prompt of *message* at inference; None if the template rejects the messages before it."""
        key = (message, switch)
        if key not in self._prompts:
            try:
                self._prompts[key] = self.template.render(
                    self.messages[:message], self.tools, True, **self._switched(switch)
                )
            except RowError:
                self._prompts[key] = None
        return self._prompts[key]

    def prompt_layout(self, message: int, switch: str = "") -> Layout:
        """The prompt of *message* with the origin of its parts."""
        before = self.messages[:message]
        return Layout(self.template.trace(before, self.tools, True, **self._switched(switch)), before)

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
