"""One text, as the tokenizer itself encodes it."""

from __future__ import annotations

from typing import Any, NamedTuple

from sftcore.core.errors import RowError


class Encoded(NamedTuple):
    """The tokens of a text, and the range of characters of each; no ranges if the tokenizer does not tell."""

    ids: list[int]
    offsets: list[tuple[int, int]]


def encode(tokenizer: Any, text: str) -> Encoded:
    """Return the tokens of *text*, as ``apply_chat_template`` gives them.

    Raises:
        RowError: it has half of a surrogate pair, which is no character.
    """
    utf8(text)
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return Encoded(encoded["input_ids"], encoded["offset_mapping"])
    return Encoded(_plain(tokenizer, text), [])


def utf8(text: str) -> bytes:
    """Return the bytes of *text*.

    Raises:
        RowError: it has half of a surrogate pair, which is no character.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"the text has {text[error.start]!r}, half of a surrogate pair, which is no character") from None


def tokens_of_prefix(tokenizer: Any, ids: list[int], prefix: str) -> int:
    """Return how many of *ids* the text *prefix* is, for a tokenizer that does not tell where its tokens lie.

    Raises:
        RowError: a token crosses the end of *prefix*.
    """
    head = _plain(tokenizer, prefix)
    if ids[: len(head)] != head:
        raise RowError(
            "a token crosses the border of a trained span, and this tokenizer does not tell where its tokens lie"
        )
    return len(head)


def _plain(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
