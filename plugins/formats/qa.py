"""``{"input": "...", "output": "..."}``, and the same under other names: one question, one answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sftcore import Format, Message, RowError
from sftcore.rows import SINGLE_TURN_KEYS, read_json, read_list, read_text, single_turn

from .messages import KEYS, Messages


@dataclass
class QA(Format):
    """One turn: input and output; each may also be a list of messages."""

    question: ClassVar[str] = "input"
    answer: ClassVar[str] = "output"
    reads: ClassVar[Mapping[str, Any]] = {**SINGLE_TURN_KEYS, "input": KEYS, "output": KEYS}

    def parse(self, row: Mapping[str, Any]) -> Sequence[Message]:
        question, answer = _turns(row, self.question), _turns(row, self.answer)
        if question is answer is None:
            return single_turn(read_text(row, self.question), read_text(row, self.answer), row)
        if others := [key for key in SINGLE_TURN_KEYS if row.get(key)]:
            raise RowError(f"'{others[0]}' has no place beside a list of messages: put it into the list")
        asked = question or [Message("user", read_text(row, self.question))]
        answered = answer or [Message("assistant", read_text(row, self.answer))]
        return [*map(_untrained, asked), *answered]


def _turns(row: Mapping[str, Any], key: str) -> list[Message] | None:
    """Return the messages at *key*; None where there is text."""
    value = row.get(key)
    if isinstance(value, str) and value.startswith("[{"):
        try:
            value = read_json(value, f"'{key}'")
        except RowError:
            if re.match(r'\[\{\s*"(role|from)"', value):
                raise
            return None
        if not all(isinstance(turn, dict) and turn.keys() & {"role", "from"} for turn in value):
            return None
    return Messages().turns(read_list({key: value}, key), f" of '{key}'") if isinstance(value, list) else None


def _untrained(message: Message) -> Message:
    """Return *message*; one of the assistant is not trained, because it is part of a question."""
    return replace(message, train=False) if message.role == "assistant" and message.train is None else message


@dataclass
class PromptCompletion(QA):
    """One turn: prompt and completion; each may also be a list of messages."""

    question: ClassVar[str] = "prompt"
    answer: ClassVar[str] = "completion"
    reads: ClassVar[Mapping[str, Any]] = {**SINGLE_TURN_KEYS, "prompt": KEYS, "completion": KEYS}


@dataclass
class PromptResponse(QA):
    """One turn: prompt and response; each may also be a list of messages."""

    question: ClassVar[str] = "prompt"
    answer: ClassVar[str] = "response"
    reads: ClassVar[Mapping[str, Any]] = {**SINGLE_TURN_KEYS, "prompt": KEYS, "response": KEYS}


@dataclass
class QuestionAnswer(QA):
    """One turn: question and answer; each may also be a list of messages."""

    question: ClassVar[str] = "question"
    answer: ClassVar[str] = "answer"
    reads: ClassVar[Mapping[str, Any]] = {**SINGLE_TURN_KEYS, "question": KEYS, "answer": KEYS}


@dataclass
class QueryResponse(QA):
    """One turn: query and response; each may also be a list of messages."""

    question: ClassVar[str] = "query"
    answer: ClassVar[str] = "response"
    reads: ClassVar[Mapping[str, Any]] = {**SINGLE_TURN_KEYS, "query": KEYS, "response": KEYS}
