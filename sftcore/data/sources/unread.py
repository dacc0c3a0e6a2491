"""Keys of a row that its format does not read: counted and reported, or the row is rejected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from sftcore.core.components import Format
from sftcore.core.errors import RowError, nearest
from sftcore.core.json_text import STRICT
from sftcore.core.training_fields import TRAINING_KEYS
from sftcore.core.types import Conversation, PlainMessages
from sftcore.data.sources.renaming import ROLE_KEYS
from sftcore.data.sources.row_fields import ROW_KEYS

_MEDIA = "only text is trained"
_PREFERENCE = "preference data has answers that must not be trained: rename the good one with 'columns'"
_TOKENS = "data is labelled and tokenized by sftcore, from text"
_CONTENT = (
    "belongs into the conversation, and this format does not read it there: rename it with 'columns' or 'message_keys'"
)
_REASONING = "may be reasoning that is to be trained: rename it to 'reasoning_content' with 'columns'"

_MASKS = ("mask", "masked", "train_mask", "loss_masks", "completion_mask", "assistant_masks", "train_detail")

NEEDED: Mapping[str, str] = {
    **dict.fromkeys(("image", "images", "image_url", "video", "videos", "audio", "audios", "input_audio"), _MEDIA),
    **dict.fromkeys(
        ("chosen", "rejected", "rejected_response", "rejected_responses", "rejected_messages"), _PREFERENCE
    ),
    **dict.fromkeys(("label", "kto_tag"), "may mean that the answer must not be trained: remove these rows"),
    **dict.fromkeys(("input_ids", "attention_mask", "labels", "token_type_ids", "position_ids"), _TOKENS),
    **dict.fromkeys(("history", "context", "documents", "system", "system_prompt", "system_message"), _CONTENT),
    **dict.fromkeys(
        ("tools", "functions", "tool_call", "tool_calls", "function_call", "tool_plan", "refusal"), _CONTENT
    ),
    **dict.fromkeys(("reasoning", "reasoning_content", "thinking", "thought", "thoughts", "cot"), _REASONING),
    **dict.fromkeys((*TRAINING_KEYS, *_MASKS), "may mean that this is not trained: give the row or message a 'train'"),
}
"""Keys that change what is trained, wherever they stand, and what to do; a row that has one unread is rejected."""

_EMPTY: tuple[Any, ...] = (None, "", [], {})


def keys_of(form: Format) -> Mapping[str, Any] | None:
    """The keys that *form* reads from a row, those of every format included; None if it does not declare them."""
    return None if form.reads is None else {**ROW_KEYS, **form.reads}


def unread_keys(row: Mapping[str, Any], conversation: Conversation, keys: Mapping[str, Any]) -> list[str]:
    """The names of what *row* has beside *keys* and is not empty; each with the nearest known name.

    Where the *conversation* that was read from it is plain, its messages have no further keys.

    Raises:
        RowError: one of them is needed.
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
                if advice := NEEDED.get(str(key).lower()):
                    raise RowError(f"'{where}{key}' is not read: {advice}, or set data.unread to ignore")
                yield _name(str(key), where, tuple(keys))


def _decoded(value: Any) -> Any:
    """*value*, decoded if it is the JSON text of messages; an answer may be the JSON text of another list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError):  # the format has reported it
            turns = STRICT.decode(value)
            return turns if all(isinstance(turn, dict) and turn.keys() & {*ROLE_KEYS} for turn in turns) else value
    return value


@lru_cache(4096)
def _name(key: str, where: str, known: tuple[str, ...]) -> str:
    hint = nearest(key, known).removeprefix("; ")
    return f"{where}{key}" + (f" ({hint})" if hint else "")


def check_unread(names: list[str], mode: str) -> None:
    """Check that there are no *names*, from :func:`unread_keys`, in the *mode* ``error``.

    Raises:
        RowError: there is one.
    """
    if names and mode == "error":
        raise RowError(f"nothing reads {', '.join(names)}, and data.unread is error")
