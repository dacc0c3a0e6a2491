"""From conversations to labelled tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sftcore.chat import render_conversation, renderer
from sftcore.data.conversations import Parsed, bad_rows
from sftcore.errors import DataError, RowError
from sftcore.types import IGNORE_INDEX, Example


@dataclass
class Summary:
    """What became of the rows of one set; ``rows`` is the sum of ``kept`` and ``dropped``."""

    rows: int = 0
    """Rows read."""
    kept: int = 0
    """Rows that are trained or evaluated."""
    dropped: int = 0
    """Rows in which, once cut to ``max_length``, no trained token is left."""
    truncated: int = 0
    """Kept rows that were cut at ``max_length``."""
    tokens: int = 0
    """Tokens of the kept rows."""
    trained: int = 0
    """Trained tokens among them."""
    longest: int = 0
    """Tokens of the longest row, before cutting."""
    notes: list[str] = field(default_factory=list)
    """What a person should know about these rows."""


def label(
    rows: Sequence[Parsed], tokenizer: Any, stops: Sequence[str], max_length: int
) -> tuple[list[Example], Summary]:
    """Tokenize *rows* and label the tokens that the model must produce.

    Returns:
        The examples, of at most *max_length* tokens each, and what became of the rows.

    Raises:
        DataError: rows that cannot be labelled, or a set in which nothing is left to train.
    """
    summary = Summary(rows=len(rows))
    examples: list[Example] = []
    problems: list[str] = []
    for row in rows:
        try:
            ids, labels = label_one(row, tokenizer, stops)
        except RowError as error:
            problems.append(f"{row.origin}: {error}")
            continue
        summary.longest = max(summary.longest, len(ids))
        cut = len(ids) > max_length
        ids, labels = ids[:max_length], [IGNORE_INDEX, *labels[1:max_length]]  # nothing predicts the first token
        trained = sum(token != IGNORE_INDEX for token in labels)
        if not trained:
            summary.dropped += 1
            continue
        summary.kept += 1
        summary.truncated += cut
        summary.tokens += len(ids)
        summary.trained += trained
        examples.append(Example(ids, labels, (len(ids),), (row.origin,)))
    if problems:
        raise DataError(bad_rows(problems))
    if rows and not examples:
        places = ", ".join(str(row.origin) for row in rows[:3])
        raise DataError(
            f"no trained token is left within max_length {max_length} in any row (of {len(rows)}; see {places})"
        )
    if summary.truncated or summary.dropped:
        summary.notes.append(
            f"{summary.truncated} rows were cut at max_length {max_length}, and {summary.dropped} dropped because the "
            f"cut left nothing to train; the longest has {summary.longest} tokens"
        )
    if any(row.conversation.tools for row in rows) and not _reads_tools(tokenizer):
        count = sum(bool(row.conversation.tools) for row in rows)
        summary.notes.append(f"{count} rows have tools, which this chat template does not print")
    if any(_has_reasoning(row) for row in rows) and "reasoning_content" not in str(tokenizer.chat_template):
        count = sum(map(_has_reasoning, rows))
        summary.notes.append(f"{count} rows have reasoning, which this chat template does not print")
    return examples, summary


def label_one(row: Parsed, tokenizer: Any, stops: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the token ids of one conversation and their labels, both of the same length.

    The ids are those of ``tokenizer.apply_chat_template(messages, tokenize=True)``.

    Raises:
        RowError: a turn cannot be labelled with certainty.
    """
    text, spans = render_conversation(row.conversation, renderer(tokenizer, row.conversation), stops)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"the text has {text[error.start]!r}, half of a surrogate pair, which is no character") from None
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        return ids, _labels(ids, offsets, spans, lambda token: token in tokenizer.added_tokens_decoder)
    ids = _encode(tokenizer, text)
    labels = [IGNORE_INDEX] * len(ids)
    for start, end in spans:
        first, last = _boundary(tokenizer, ids, text[:start]), _boundary(tokenizer, ids, text[:end])
        labels[first:last] = ids[first:last]
    return ids, labels


def _labels(
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    spans: Sequence[tuple[int, int]],
    is_added: Callable[[int], bool],
) -> list[int]:
    """Return *ids* where a token's characters touch one of the ordered *spans*, elsewhere the ignored label.

    A token that begins before a span is trained with it, unless it is an added token: such a marker
    belongs to the prompt, and only took the white space that follows it (``rstrip=True``).
    """
    labels = [IGNORE_INDEX] * len(ids)
    token = 0
    for start, end in spans:
        while token < len(ids) and (offsets[token][1] <= start or (offsets[token][0] < start and is_added(ids[token]))):
            token += 1
        while token < len(ids) and offsets[token][0] < end:
            labels[token] = ids[token]
            token += 1
    return labels


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _boundary(tokenizer: Any, ids: list[int], prefix: str) -> int:
    """Return how many of *ids* the text *prefix* is, for a tokenizer that gives no offsets."""
    head = _encode(tokenizer, prefix)
    if ids[: len(head)] != head:
        raise RowError(
            "a token crosses the border of a trained span, and this tokenizer does not tell where its tokens lie"
        )
    return len(head)


def _reads_tools(tokenizer: Any) -> bool:
    """Tell whether the chat template has a use for tools at all."""
    return "tools" in str(tokenizer.chat_template)


def _has_reasoning(row: Parsed) -> bool:
    return any(message.reasoning_content for message in row.conversation.messages)
