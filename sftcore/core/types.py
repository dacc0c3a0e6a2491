"""Messages and conversations, as formats return them and chat templates read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]

IGNORE_INDEX = -100
"""Label of a token that is not trained (the ``ignore_index`` of torch's cross entropy)."""


@dataclass(frozen=True)
class Message:
    """One message, with the fields that Hugging Face chat templates read."""

    role: Role
    content: str
    reasoning_content: str | None = None
    tool_calls: Sequence[Mapping[str, Any]] = ()
    """``{"type": "function", "function": {"name": ..., "arguments": {...}}}``, as in OpenAI's API."""
    name: str | None = None
    tool_call_id: str | None = None
    train: bool | None = None
    """Whether the message is trained; None: ``data.train_on`` decides."""
    weight: float = 1.0
    """Weight of each of its trained tokens in the loss; at least 0."""

    def to_dict(self) -> dict[str, Any]:
        """Return the message as a chat template gets it, without fields that are not set."""
        fields: dict[str, Any] = {"role": self.role, "content": self.content}
        for key in ("reasoning_content", "tool_calls", "name", "tool_call_id"):
            if value := getattr(self, key):
                fields[key] = list(value) if key == "tool_calls" else value
        return fields


class PlainMessages(Sequence[Message]):
    """Messages with role and content only, as in most data; the :class:`Message` objects are created on access.

    Attributes:
        roles: the role of each message.
        contents: the content of each message.
    """

    __slots__ = ("_messages", "contents", "roles")

    def __init__(self, roles: Sequence[Role], contents: Sequence[str]) -> None:
        self.roles, self.contents = tuple(roles), contents
        self._messages: tuple[Message, ...] = ()

    def _all(self) -> tuple[Message, ...]:
        self._messages = self._messages or tuple(map(Message, self.roles, self.contents))
        return self._messages

    def __len__(self) -> int:
        return len(self.roles)

    def __getitem__(self, index: Any) -> Any:
        return self._all()[index]

    def __iter__(self) -> Iterator[Message]:
        return iter(self._all())

    def __eq__(self, other: object) -> bool:
        return self._all() == (other._all() if isinstance(other, PlainMessages) else other)

    def __hash__(self) -> int:
        return hash(self._all())

    def __repr__(self) -> str:
        return repr(self._all())


@dataclass(frozen=True)
class Conversation:
    """The messages of one row, and the other inputs of the chat template."""

    messages: Sequence[Message]
    tools: tuple[Mapping[str, Any], ...] = ()
    """The tools that the model may call, as JSON schemas."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Further variables of the chat template, such as ``enable_thinking``."""

    @classmethod
    def from_messages(cls, messages: Sequence[Message]) -> Conversation:
        """Return ``Conversation(messages)``, three times as fast as the constructor of a frozen dataclass."""
        conversation = cls.__new__(cls)
        conversation.__dict__.update(messages=messages, template_kwargs={})
        return conversation
