"""Rows that are tokenized together become what each becomes alone."""

from __future__ import annotations

import random

import pytest
from transformers import AutoTokenizer

from sftcore import Conversation, Message, Origin, RowError
from sftcore.data import batch
from sftcore.data.batch import labelled, labelled_many
from sftcore.data.conversations import Parsed
from sftcore.supervision import Labeller, Policy

FORGETS = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}
{%- if m.reasoning_content and loop.last %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}
{{- m.content + '<|im_end|>\n' }}
{%- if m.content == 'bad' %}{{ raise_exception('not this word') }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

POLICIES = [
    Policy(),
    Policy(train_on="last_turn"),
    Policy(train_on="all", weight=0.5),
    Policy(train_on=["user", "assistant"], train_on_stop=False),
    Policy(reasoning="mask", context="whole"),
    Policy(max_length=40),
    Policy(max_length=40, truncation="split"),
    Policy(max_length=40, truncation="truncate_right"),
    Policy(max_length=40, truncation="drop_row"),
    Policy(max_length=40, truncation="error"),
]
TEXTS = ["Hi.", "", "bad", "你好 👋🏽", "é" * 9, " \n x ", "half \ud83d", "<|im_end|>", "a b c " * 8, "don't 12345"]


def rows(number: int) -> list[Parsed]:
    chance = random.Random(number)
    made = []
    for line in range(1, number + 1):
        messages = [Message("system", "Be brief.")] if chance.random() < 0.3 else []
        for _ in range(chance.randint(1, 4)):
            text = chance.choice(TEXTS) if chance.random() < 0.5 else "word " * chance.randint(1, 6)
            reasoning = chance.choice([None, None, "so"])
            weight = chance.choice([1.0, 1.0, 0.25, 0.0])
            train = chance.choice([None, None, None, False])
            messages.append(Message("user", text))
            messages.append(Message("assistant", text[::-1], reasoning_content=reasoning, weight=weight, train=train))
        made.append(Parsed(Conversation(tuple(messages)), Origin("f", line), chance.choice(POLICIES)))
    return made


def slow(tokenizer):
    """Return a tokenizer that does not tell where its tokens lie."""
    tokenizer.__class__ = type("Slow", (type(tokenizer),), {"is_fast": False})
    return tokenizer


MERGES = FORGETS.replace("'\n' }}", "': ' }}").replace("assistant\n", "assistant: ")
"""The space before an answer is the prompt's, and becomes a part of the answer's first token."""


@pytest.fixture(scope="module", params=["fast", "slow", "merges"])
def labeller(request, smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.chat_template = MERGES if request.param == "merges" else FORGETS
    return Labeller(slow(tokenizer) if request.param == "slow" else tokenizer, ["<|im_end|>"])


def attempt(row, labeller):
    try:
        return labelled(row, labeller)
    except RowError as error:
        return error


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_together_is_as_alone(labeller, monkeypatch, at_once):
    monkeypatch.setattr(batch, "ROWS", at_once)
    seen = set()
    made = rows(120)
    for row, found in zip(made, labelled_many(made, labeller), strict=True):
        alone = attempt(row, labeller)
        if isinstance(alone, RowError):
            assert (type(found), str(found)) == (type(alone), str(alone))
            seen.add("refused")
            continue
        assert not isinstance(found, RowError)
        assert found.remarks == alone.remarks
        seen |= {remark.name for remark, times in found.remarks.items() if times}
        assert (found.details, found.longest) == (alone.details, alone.longest)
        assert len(found.examples) == len(alone.examples)
        for one, other in zip(found.examples, alone.examples, strict=True):
            seen.add("example")
            assert (one.text, one.input_ids, one.labels) == (other.text, other.input_ids, other.labels)
            assert (one.messages, one.turns, one.skipped) == (other.messages, other.turns, other.skipped)
            assert one.weights == other.weights
        seen.add(len(found.examples))
    assert {"refused", "example", 0, 1, 2, 3} <= seen
    assert ("MERGED" in seen) is (labeller.tokenizer.chat_template == MERGES)
