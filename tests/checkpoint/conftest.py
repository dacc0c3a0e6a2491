"""A model that trains within a second, and runs of it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from small_model import make_small_model


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama whose tokens are bytes, and 22 rows to train and 8 to evaluate."""
    folder = tmp_path_factory.mktemp("small")
    make_small_model(folder)
    return folder


@pytest.fixture(scope="session")
def compiled_deepspeed() -> None:
    """Compile DeepSpeed's extension, once per environment: that may take longer than tests wait for a run."""
    code = (
        "from deepspeed.accelerator import get_accelerator; from sftcore_plugins.backends.building import build; "
        "build(get_accelerator().create_op_builder('ShareMemCommBuilder'))"
    )
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PATH": path})


@pytest.fixture
def make_run(small: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a folder with the configuration of a run of seven steps, in two epochs and with evaluations."""

    def make(name: str = "run", method: Any = "lora", **changes: Any) -> Path:
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
    return make
