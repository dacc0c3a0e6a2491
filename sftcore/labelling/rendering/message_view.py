"""The messages as a template sees them: with tags, and watched while they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    "role": HEADER,
    "name": HEADER,
    "tool_call_id": HEADER,
    "id": HEADER,
    "recipient": HEADER,
    "reasoning_content": REASONING,
    "reasoning": REASONING,
    "thinking": REASONING,
}
"""What a field is, if not content: text of a header, which no model writes, or reasoning."""


class Message(dict[str, Any]):
    """A message that knows its index."""

    __slots__ = ("_index",)
    _index: int


def message_index(value: object) -> int | None:
    """Return which message *value* is, or was made of; None if it is no message."""
    if type(value) is Message:
        return value._index
    if type(value) is dict and "role" in value:
        for text in (value["role"], value.get("content")):
            if isinstance(text, Tracked) and text._runs and text._runs[0][1] >= 0:
                return split_tag(text._runs[0][1])[0]
    return None


class Watch:
    """What a rendering has learned of the messages, and how much it had printed by then.

    Attributes:
        printed: characters printed so far; the renderer keeps it.
        known: for each message that was asked for, in order, *printed* at that time.
        by_loop: whether it was the one loop over the messages that asked for it first.
    """

    def __init__(self) -> None:
        self.printed = 0
        self.known: list[int] = []
        self.by_loop: list[bool] = []
        self.loops = 0

    def learn(self, index: int, by_loop: bool = False) -> None:
        """Take down that it is known of the messages up to *index* whether they exist."""
        while len(self.known) <= index:
            self.known.append(self.printed)
            self.by_loop.append(by_loop)


class Messages(Sequence[Message]):
    """A list of messages, for reading only, that tells a :class:`Watch` who is looked at.

    It is no ``list``, because C code would read one past us.
    """

    __slots__ = ("_items", "_offset", "_watch")

    def __init__(self, items: Sequence[Message], watch: Watch, offset: int = 0) -> None:
        self._items = items
        self._watch = watch
        self._offset = offset

    def _see_all(self) -> None:
        self._watch.learn(self._offset + len(self._items))

    def __len__(self) -> int:
        self._see_all()
        return len(self._items)

    def __bool__(self) -> bool:
        if self._items:
            self._watch.learn(self._offset)
        else:
            self._see_all()
        return bool(self._items)

    @overload
    def __getitem__(self, key: int) -> Message: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[Message]: ...
    def __getitem__(self, key: int | slice) -> Message | Sequence[Message]:
        if isinstance(key, slice):
            if (key.start or 0) >= 0 and key.stop is None and key.step in (None, 1):
                start = min(key.start or 0, len(self._items))
                return Messages(self._items[start:], self._watch, self._offset + start)
            self._see_all()
            return self._items[key]
        if key < 0 or key >= len(self._items):
            self._see_all()
        else:
            self._watch.learn(self._offset + key)
        return self._items[key]

    def __iter__(self) -> Iterator[Message]:
        self._watch.loops += 1
        for index, item in enumerate(self._items, self._offset):
            self._watch.learn(index, by_loop=True)
            yield item
        self._watch.learn(self._offset + len(self._items), by_loop=True)

    def __reversed__(self) -> Iterator[Message]:
        self._see_all()
        return reversed(self._items)

    def __contains__(self, item: object) -> bool:
        self._see_all()
        return item in self._items

    def __eq__(self, other: object) -> bool:
        self._see_all()
        return bool(list(self._items) == _as_list(other))

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: Any) -> list[Any]:
        self._see_all()
        return [*self._items, *other]

    def __radd__(self, other: Any) -> list[Any]:
        self._see_all()
        return [*other, *self._items]

    def __mul__(self, times: int) -> list[Any]:
        self._see_all()
        return [*self._items] * times

    __rmul__ = __mul__

    def __lt__(self, other: Any) -> Any:
        return self.copy() < _as_list(other)

    def __le__(self, other: Any) -> Any:
        return self.copy() <= _as_list(other)

    def __gt__(self, other: Any) -> Any:
        return self.copy() > _as_list(other)

    def __ge__(self, other: Any) -> Any:
        return self.copy() >= _as_list(other)

    def copy(self) -> list[Any]:
        """Return the messages in a list, as ``list.copy`` does."""
        self._see_all()
        return [*self._items]

    def __repr__(self) -> str:
        return repr(self.copy())

    __str__ = __repr__


def _as_list(value: Any) -> Any:
    return value.copy() if isinstance(value, Messages) else value


def tagged(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return *messages* with every string tagged by its message and field."""
    made: list[Message] = []
    for index, message in enumerate(messages):
        copy = Message()
        copy._index = index
        for key, value in message.items():
            if key == "tool_calls" and isinstance(value, (list, tuple)):
                copy[key] = [_call(call, index) for call in value]
            else:
                copy[key] = _texts(value, tag_of(index, _FIELDS.get(key, CONTENT)))
        made.append(copy)
    return made


def _call(call: Any, index: int) -> Any:
    """Return a tool call, tagged: its name and id apart, since templates repeat them in a tool's result."""
    if not isinstance(call, Mapping):
        return _texts(call, tag_of(index, CALL))
    made: dict[str, Any] = {}
    for key, value in call.items():
        if key == "function" and isinstance(value, Mapping):
            made[key] = _call(value, index)
        elif key == "type":
            made[key] = value
        elif key in ("name", "id"):
            made[key] = _texts(value, tag_of(index, CALL_NAME if key == "name" else CALL_ID))
        else:
            made[key] = _texts(value, tag_of(index, CALL), keys=True)
    return made


def _texts(value: Any, tag: int, keys: bool = False) -> Any:
    """Return *value* with its strings tagged; also those that are *keys*, as in the arguments of a call."""
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
