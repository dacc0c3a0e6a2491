"""The content of a conversation as a key: equal for rows that say the same, whatever their file and format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from xxhash import xxh3_128_digest

from sftcore.core.errors import RowError
from sftcore.core.types import Conversation, PlainMessages

MAX_DEPTH = 100  # how deeply tools, tool calls and template variables may be nested
SEPARATOR = b"\xff"  # a byte that UTF-8 never has, between two texts in the digest


def content_key(conversation: Conversation) -> bytes:
    """XXH3 digest (128 bits) of the messages and tools of *conversation*, not of how they are trained.

    Raises:
        RowError: a text has a lone surrogate, or a value is nested too deeply.
    """
    data: list[bytes] = []
    try:
        messages = conversation.messages
        if isinstance(messages, PlainMessages):
            for role, text in zip(messages.roles, messages.contents, strict=True):
                data += (role.encode(), text.encode())
            messages = ()
        for message in messages:
            data += (message.role.encode(), message.content.encode())
            if message.reasoning_content or message.tool_calls or message.name or message.tool_call_id:
                _check_depth(message.tool_calls)
                data.append(
                    _json([message.reasoning_content, message.tool_calls, message.name, message.tool_call_id]).encode()
                )
        if conversation.template_kwargs:
            _check_depth(conversation.template_kwargs.values())
        if conversation.tools:
            _check_depth(conversation.tools)
            data.append(_json(conversation.tools).encode())
    except UnicodeEncodeError as error:
        surrogate = error.object[error.start]
        raise RowError(f"the text has the lone surrogate {surrogate!r}, which is not a character") from None
    return xxh3_128_digest(SEPARATOR.join(data))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _check_depth(values: Iterable[Any]) -> None:
    level = list(values)
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                below += value.values()
            elif isinstance(value, (list, tuple)):
                below += value
        if not below:
            return
        level = below
    raise RowError(f"is nested more than {MAX_DEPTH} levels deep")
