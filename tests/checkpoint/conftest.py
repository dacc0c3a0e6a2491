"""A model that is trained within a second, and runs of it in forked processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from nursery import Nursery

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama whose tokens are bytes, and 24 rows to train and 8 to evaluate."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("small")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_alone = Tokenizer(models.BPE({character: number for number, character in enumerate(alphabet)}, []))
    bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_alone.decoder = decoders.ByteLevel()
    bytes_alone.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_alone, eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=CHAT
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
            attention_dropout=0.1,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name, numbers in (("rows", range(22)), ("eval", range(100, 108))):
        lines = [
            {
                "messages": [
                    {"role": "user", "content": f"{n}+1"},
                    {"role": "assistant", "content": f"{n + 1}" * (n % 3 + 1)},
                ]
            }
            for n in numbers
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture(scope="session")
def nursery(own_cache: None) -> Iterator[Nursery]:
    """Where processes are forked that have imported everything already."""
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def compiled() -> None:
    """What DeepSpeed compiles once in an environment, which may take longer than a run is waited for."""
    code = (
        "from deepspeed.accelerator import get_accelerator; from sftcore_plugins.backends.building import build; "
        "build(get_accelerator().create_op_builder('ShareMemCommBuilder'))"
    )
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PATH": path})


@pytest.fixture
def life(small: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a folder with the configuration of a run of seven steps, in two epochs and with evaluations."""

    def made(name: str = "run", method: Any = "lora", **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        arguments: dict[str, Any] = {
            "output_dir": "out",
            "max_steps": 7,
            "per_device_train_batch_size": 4 // changes.pop("ranks", 1),
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-3,
            "logging_steps": 2,
            "save_steps": 2,
            "eval_strategy": "epoch",
            "save_total_limit": 2,
        }
        config: dict[str, Any] = {
            "model": {"name_or_path": str(small)},
            "data": {"train": str(small / "rows.jsonl"), "eval": str(small / "eval.jsonl"), "workers": 1},
            "method": {"name": "lora", "lora_dropout": 0.1, "r": 4} if method == "lora" else method,
            "training_args": {**arguments, **changes.pop("training_args", {})},
            **changes,
        }
        (folder / "finetune.yaml").write_text(yaml.safe_dump(config))
        return folder

    os.environ["HF_HUB_OFFLINE"] = "1"
    return made
