"""One text, as the tokenizer itself encodes it."""

from __future__ import annotations

from typing import Any, NamedTuple

from sftcore.core.errors import RowError


class EncodedText(NamedTuple):
    """The tokens of a text, and the range of characters of each; empty for a tokenizer without offsets."""

    ids: list[int]
    offsets: list[tuple[int, int]]


def encode_text(tokenizer: Any, text: str) -> EncodedText:
    """The tokens of *text*, as ``apply_chat_template`` gives them.

    Raises:
        RowError: the text has a lone surrogate.
    """
    to_utf8(text)
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return EncodedText(encoded["input_ids"], encoded["offset_mapping"])
    return EncodedText(_plain(tokenizer, text), [])


def to_utf8(text: str) -> bytes:
    """The bytes of *text*.

    Raises:
        RowError: the text has a lone surrogate.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"the text has the lone surrogate {text[error.start]!r}, which is not a character") from None


def count_prefix_tokens(tokenizer: Any, ids: list[int], prefix: str) -> int:
    """The number of *ids* that the text *prefix* has, for a tokenizer without offsets.

    Raises:
        RowError: a token crosses the end of *prefix*.
    """
    head = _plain(tokenizer, prefix)
    if ids[: len(head)] != head:
        raise RowError("a token crosses the boundary of a trained span, and this tokenizer has no offsets")
    return len(head)


def _plain(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
