"""The messages that a traced template gets: with tags, and with a record of their accesses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

from sftcore.labelling.rendering.provenance import (
    CALL,
    CALL_ID,
    CALL_NAME,
    CONTENT,
    HEADER,
    REASONING,
    Tracked,
    split_tag,
    tag_of,
    tracked,
)

_FIELDS = {
    **dict.fromkeys(("role", "name", "tool_call_id", "id", "recipient"), HEADER),
    **dict.fromkeys(("reasoning_content", "reasoning", "thinking"), REASONING),
}
"""Kinds of fields other than content: headers, which no model writes, and reasoning."""


class TemplateMessage(dict[str, Any]):
    """A message as a template gets it, which knows its index."""

    __slots__ = ("_index",)
    _index: int


def message_index(value: object) -> int | None:
    """Index of the message that *value* is or was built from; None if it is not a message."""
    if type(value) is TemplateMessage:
        return value._index
    if type(value) is dict and "role" in value:
        for text in (value["role"], value.get("content")):
            if isinstance(text, Tracked) and text._runs and text._runs[0][1] >= 0:
                return split_tag(text._runs[0][1])[0]
    return None


class AccessLog:
    """Record of when a rendering first accessed each message.

    Attributes:
        printed: number of characters printed so far; the renderer updates it.
        known: *printed* at the first access of each message, or at which its existence was known, in order; None if
            that was not by a loop over the messages.
        loops: number of such loops.
    """

    def __init__(self) -> None:
        self.printed = 0
        self.known: list[int | None] = []
        self.loops = 0

    def record(self, index: int, by_loop: bool = False) -> None:
        """Record that the existence of the messages up to *index* is known."""
        while len(self.known) <= index:
            self.known.append(self.printed if by_loop else None)


class Messages(Sequence[TemplateMessage]):
    """A list of messages, for reading only, that records in an :class:`AccessLog` when each is accessed.

    It is not a ``list``, because C code would read one without calling its methods.
    """

    __slots__ = ("_items", "_log", "_offset")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, items: Sequence[TemplateMessage], log: AccessLog, offset: int = 0) -> None:
        self._items = items
        self._log = log
        self._offset = offset

    def copy(self) -> list[Any]:
        """The messages in a list, as ``list.copy``."""
        self._log.record(self._offset + len(self._items))
        return [*self._items]

    def __len__(self) -> int:
        self._log.record(self._offset + len(self._items))
        return len(self._items)

    def __bool__(self) -> bool:
        self._log.record(self._offset)
        return bool(self._items)

    @overload
    def __getitem__(self, key: int) -> TemplateMessage: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[TemplateMessage]: ...
    def __getitem__(self, key: int | slice) -> TemplateMessage | Sequence[TemplateMessage]:
        if isinstance(key, slice):
            if (key.start or 0) >= 0 and key.stop is None and key.step in (None, 1):
                start = min(key.start or 0, len(self._items))
                return Messages(self._items[start:], self._log, self._offset + start)
        elif 0 <= key < len(self._items):
            self._log.record(self._offset + key)
            return self._items[key]
        return self.copy()[key]

    def __iter__(self) -> Iterator[TemplateMessage]:
        self._log.loops += 1
        for index, item in enumerate(self._items, self._offset):
            self._log.record(index, by_loop=True)
            yield item
        self._log.record(self._offset + len(self._items), by_loop=True)

    def __radd__(self, other: Any) -> list[Any]:
        return [*other, *self.copy()]


def _method_of_list(name: str) -> Callable[..., Any]:
    """The method *name* of a list, which reads all messages."""

    def method(self: Messages, *args: Any) -> Any:
        return getattr(list, name)(self.copy(), *(arg.copy() if isinstance(arg, Messages) else arg for arg in args))

    return method


for _name in ("add", "contains", "eq", "ge", "gt", "le", "lt", "mul", "ne", "repr", "reversed", "rmul"):
    setattr(Messages, f"__{_name}__", _method_of_list(f"__{_name}__"))
for _name in ("count", "index"):
    setattr(Messages, _name, _method_of_list(_name))


def tag_messages(messages: Sequence[Mapping[str, Any]]) -> list[TemplateMessage]:
    """Copies of *messages* with every string tagged with its message and field."""
    tagged: list[TemplateMessage] = []
    for index, message in enumerate(messages):
        copy = TemplateMessage()
        copy._index = index
        for key, value in message.items():
            if key == "tool_calls" and isinstance(value, (list, tuple)):
                copy[key] = [_call(call, index) for call in value]
            else:
                copy[key] = _texts(value, tag_of(index, _FIELDS.get(key, CONTENT)))
        tagged.append(copy)
    return tagged


def _call(call: Any, index: int) -> Any:
    """A copy of a tool call with tags; name and id have their own, since templates repeat them in tool results."""
    if not isinstance(call, Mapping):
        return _texts(call, tag_of(index, CALL))
    tagged: dict[str, Any] = {}
    for key, value in call.items():
        if key == "function" and isinstance(value, Mapping):
            tagged[key] = _call(value, index)
        elif key == "type":
            tagged[key] = value
        else:
            kind = {"name": CALL_NAME, "id": CALL_ID}.get(key, CALL)
            tagged[key] = _texts(value, tag_of(index, kind), keys=kind == CALL)
    return tagged


def _texts(value: Any, tag: int, keys: bool = False) -> Any:
    """A copy of *value* with tagged strings, including *keys*, as in the arguments of a call."""
    if isinstance(value, str):
        return value if isinstance(value, Tracked) else tracked(value, ((len(value), tag),))
    if isinstance(value, Mapping):
        return {
            _texts(key, tag) if keys else key: item if key == "type" and not keys else _texts(item, tag, keys)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_texts(item, tag, keys) for item in value]
    return value
