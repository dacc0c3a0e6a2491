"""What a run leaves behind: the adapter or model, with what is needed to serve it as it was trained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sftcore.checkpoint import manifest
from sftcore.distributed.ranks import Ranks
from sftcore.runtime.console import write_error_reason
from sftcore.runtime.paths import earlier_folder

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "adapter_config.json")
"""Files that say which weights a folder holds: one that is left of another run would be taken for this one's."""

_STAGED = "model.writing"


def save(trainer: Any, tokenizer: Any, folder: Path, ranks: Ranks) -> None:
    """Write the trained weights, the tokenizer with its chat template, and the generation settings.

    All ranks must call it: weights that are spread over them are gathered. What is in *folder* is only replaced when
    everything is on the disk.

    Raises:
        SftError: it cannot be written.
    """
    staged = folder / _STAGED

    def explain(error: Exception) -> str:
        return f"the trained model cannot be written to {folder}: {write_error_reason(folder, error)}"

    def clear() -> None:
        shutil.rmtree(staged, ignore_errors=True)

    def write() -> None:
        trainer.save_model(str(staged))
        if ranks.writes:
            tokenizer.save_pretrained(str(staged))
            trainer.accelerator.unwrap_model(trainer.model).generation_config.save_pretrained(str(staged))

    def publish() -> None:
        names = sorted(path.relative_to(staged) for path in staged.rglob("*") if path.is_file())
        for name in names:
            manifest.flush_file(staged / name)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).replace(folder / name)
        _put_aside([path for path in _weights(folder) if path.relative_to(folder) not in names], folder)
        manifest.flush_folder(folder)

    ranks.together(clear, explain)
    try:
        ranks.together(write, explain, everyone=True)
        ranks.together(publish, explain)
    finally:  # when no rank writes any more
        if ranks.writes:
            clear()


def _weights(folder: Path) -> list[Path]:
    return [path for pattern in _WEIGHTS for path in folder.glob(pattern)]


def _put_aside(paths: list[Path], folder: Path) -> None:
    earlier = earlier_folder(folder)
    for path in paths:
        earlier.mkdir(parents=True, exist_ok=True)
        path.rename(earlier / path.name)
