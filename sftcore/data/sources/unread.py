"""Keys of a row that its format does not read: counted and reported, or the row is rejected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from sftcore.core.components import Format
from sftcore.core.errors import RowError, nearest
from sftcore.core.json_text import STRICT
from sftcore.core.types import Conversation, PlainMessages
from sftcore.data.sources.row_fields import ROW_KEYS

_MEDIA = "only text is trained"
_PREFERENCE = "preference data has answers that must not be trained: rename the good one with 'columns'"
_TOKENS = "data is labelled and tokenized by sftcore, from text"
_CONTENT = "belongs into the conversation, and this format does not read it: rename it with 'columns'"
_REASONING = "may be reasoning that is to be trained: rename it to 'reasoning_content' with 'columns'"

NEEDED: Mapping[str, str] = {
    **dict.fromkeys(("image", "images", "image_url", "video", "videos", "audio", "audios", "input_audio"), _MEDIA),
    **dict.fromkeys(
        ("chosen", "rejected", "rejected_response", "rejected_responses", "rejected_messages"), _PREFERENCE
    ),
    **dict.fromkeys(("label", "kto_tag"), "may mean that the answer must not be trained: remove these rows"),
    **dict.fromkeys(("input_ids", "attention_mask", "labels"), _TOKENS),
    **dict.fromkeys(("history", "context", "system_message", "tool_call"), _CONTENT),
    **dict.fromkeys(("reasoning", "reasoning_content", "thinking", "thought", "thoughts", "cot"), _REASONING),
    **dict.fromkeys(("mask", "masked"), "may mean that this is not trained: write 'train' with true or false"),
}
"""Keys that change what is trained, wherever they stand, and what to do; a row that has one unread is rejected."""

_EMPTY: tuple[Any, ...] = (None, "", [], {})


def keys_of(form: Format) -> Mapping[str, Any] | None:
    """The keys that *form* reads from a row, those of every format included; None if it does not declare them."""
    return None if form.reads is None else {**ROW_KEYS, **form.reads}


def unread_keys(row: Mapping[str, Any], conversation: Conversation, keys: Mapping[str, Any]) -> list[str]:
    """The names of what *row* has beside *keys* and is not empty; each with the nearest known name.

    Where the *conversation* that was read from it is plain, its messages have no further keys.
    """
    if keys.keys() >= row.keys() and isinstance(conversation.messages, PlainMessages):
        return []
    return list(dict.fromkeys(_unread(row, keys, "")))


def _unread(value: Any, keys: Mapping[str, Any], where: str) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _unread(item, keys, where)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key in keys:
                if keys[key]:
                    inner = inner if where else _decoded(inner)
                    yield from _unread(inner, keys[key], f"{where}{key}.")
            elif inner not in _EMPTY:
                yield _name(str(key), where, tuple(keys))


def _decoded(value: Any) -> Any:
    """*value*, decoded if it is the JSON text of a list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError):  # the format has reported it
            return STRICT.decode(value)
    return value


@cache
def _name(key: str, where: str, known: tuple[str, ...]) -> str:
    hint = nearest(key, known).removeprefix("; ")
    return f"{where}{key}" + (f" ({hint})" if hint else "")


def check_unread(names: list[str], mode: str) -> None:
    """Check that no one of *names*, from :func:`unread_keys`, is needed; in the *mode* ``error``, that there is none.

    Raises:
        RowError: there is one.
    """
    for name in names:
        key = name.partition(" (")[0]
        if advice := NEEDED.get(key.rpartition(".")[2]):
            raise RowError(f"'{key}' is not read: {advice}, or set data.unread to ignore")
    if names and mode == "error":
        raise RowError(f"nothing reads {', '.join(names)}, and data.unread is error")
