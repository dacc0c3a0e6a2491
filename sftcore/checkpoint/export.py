"""The result of a run: the adapter or model, with the tokenizer and settings it is to be served with."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from sftcore.checkpoint.manifest import flush_file
from sftcore.distributed.ranks import Ranks
from sftcore.runtime.console import write_error_reason
from sftcore.runtime.file_io import fsync_folder
from sftcore.runtime.paths import move_to_earlier

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "adapter_config.json")
"""Files by which loaders find weights: those of an earlier run would be loaded with, or instead of, the new ones."""


def export_model(trainer: Any, tokenizer: Any, folder: Path, ranks: Ranks) -> None:
    """Write the trained weights, the tokenizer with its chat template, and the generation settings to *folder*.

    All ranks must call it: sharded weights are gathered. Files in *folder* are replaced only when all new ones are on
    the disk; weights of an earlier run are moved to ``earlier/``.

    Raises:
        SftError: on all ranks, if a file cannot be written.
    """
    staged = folder / "model.writing"

    def describe(error: Exception) -> str:
        return f"the trained model cannot be written to {folder}: {write_error_reason(folder, error)}"

    def write() -> None:
        trainer.save_model(str(staged))
        if ranks.is_writer:
            tokenizer.save_pretrained(str(staged))
            trainer.accelerator.unwrap_model(trainer.model).generation_config.save_pretrained(str(staged))

    clear = partial(shutil.rmtree, staged, ignore_errors=True)
    ranks.run_on_writers(clear, describe)
    try:
        ranks.run_on_all(write, describe)
        ranks.run_on_writers(lambda: _publish(staged, folder), describe)
    finally:  # when no rank writes any more
        if ranks.is_writer:
            clear()


def _publish(staged: Path, folder: Path) -> None:
    names = sorted(path.relative_to(staged) for path in staged.rglob("*") if path.is_file())
    for name in names:
        flush_file(staged / name)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (staged / name).replace(folder / name)
    weights = (path for pattern in _WEIGHTS for path in folder.glob(pattern))
    move_to_earlier(folder, [path for path in weights if path.relative_to(folder) not in names])
    fsync_folder(folder)
