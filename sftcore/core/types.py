"""What flows through sftcore: messages, conversations, and the labelled examples made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sftcore.core.errors import RowError, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Role = Literal["system", "user", "assistant", "tool"]

IGNORE_INDEX = -100
"""The label of a token that is not trained (the convention of torch's cross entropy)."""

ROLES: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
"""Every spelling of a role that data may use, and the one role it stands for."""


def role_of(spelling: object) -> Role:
    """Return the role that *spelling* stands for.

    Raises:
        RowError: it stands for none; the message names the nearest known spelling.
    """
    if isinstance(spelling, str) and spelling in ROLES:
        return ROLES[spelling]
    known = ", ".join(ROLES)
    hint = nearest(spelling, ROLES) if isinstance(spelling, str) else ""
    raise RowError(f"unknown role {spelling!r}{hint or f' (known: {known})'}")


@dataclass(frozen=True)
class Message:
    """One turn, in the fields that Hugging Face chat templates read."""

    role: Role
    content: str
    reasoning_content: str | None = None
    tool_calls: Sequence[Mapping[str, Any]] = ()
    """``{"type": "function", "function": {"name": ..., "arguments": {...}}}``, as OpenAI spells them."""
    name: str | None = None
    tool_call_id: str | None = None
    train: bool | None = None
    """Whether the message is trained; None leaves it to ``data.train_on``."""
    weight: float = 1.0
    """What each of its trained tokens weighs in the loss; at least 0."""

    def as_dict(self) -> dict[str, Any]:
        """Return the mapping a Jinja template gets; a field that is not set is absent."""
        fields: dict[str, Any] = {"role": self.role, "content": self.content}
        for key in ("reasoning_content", "tool_calls", "name", "tool_call_id"):
            if value := getattr(self, key):
                fields[key] = list(value) if key == "tool_calls" else value
        return fields


class Texts(Sequence[Message]):
    """Messages that have a role and content, and nothing else, as most have. They are made when one is asked for.

    Attributes:
        roles: of each message.
        contents: likewise.
    """

    __slots__ = ("_made", "contents", "roles")

    def __init__(self, roles: Sequence[Role], contents: Sequence[str]) -> None:
        self.roles, self.contents = tuple(roles), contents
        self._made: tuple[Message, ...] = ()

    @property
    def made(self) -> tuple[Message, ...]:
        """All of them."""
        self._made = self._made or tuple(map(Message, self.roles, self.contents))
        return self._made

    def __len__(self) -> int:
        return len(self.roles)

    def __getitem__(self, index: Any) -> Any:
        return self.made[index]

    def __iter__(self) -> Iterator[Message]:
        return iter(self.made)

    def __eq__(self, other: object) -> bool:
        return self.made == (other.made if isinstance(other, Texts) else other)

    def __hash__(self) -> int:
        return hash(self.made)

    def __repr__(self) -> str:
        return repr(self.made)


@dataclass(frozen=True)
class Conversation:
    """The messages of one row, and what the chat template gets beside them."""

    messages: Sequence[Message]
    """A tuple, or :class:`Texts`."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """The tools the model may call, as JSON schemas."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Further variables of the chat template, as ``enable_thinking``."""

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Conversation:
        """Return a conversation that has these and nothing else, in a third of the time."""
        conversation = cls.__new__(cls)
        conversation.__dict__.update(messages=messages, template_kwargs={})
        return conversation


class Origin(NamedTuple):
    """Where a row was read: the file (or hub id) and its line or row number, counted from 1."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True)
class Example:
    """One labelled training row.

    ``input_ids`` and ``labels`` have the same length (tokens); a label is its token, or
    ``IGNORE_INDEX`` where the token is not trained. ``lengths`` are those of the documents
    in it, in order: one, unless rows were packed. ``weights``, as long as ``labels``, are what
    the trained tokens weigh in the loss (0 where nothing is trained); None where each weighs 1.
    """

    input_ids: Sequence[int] | NDArray[np.int32]
    labels: Sequence[int] | NDArray[np.int32]
    lengths: Sequence[int]
    origins: Sequence[Origin]
    weights: Sequence[float] | NDArray[np.float64] | None = None
