"""The result of a run: the adapter or model, with the tokenizer and settings it is to be served with."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from sftcore.checkpoint.manifest import flush_file
from sftcore.core.errors import SftError
from sftcore.distributed.ranks import Ranks
from sftcore.runtime.console import write_error_reason
from sftcore.runtime.file_io import fsync_folder
from sftcore.runtime.paths import move_to_earlier

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "adapter_config.json")
"""Files by which loaders find weights: those of an earlier run would be loaded with, or instead of, the new ones."""


def export_model(trainer: Any, tokenizer: Any, folder: Path, ranks: Ranks) -> None:
    """Write the trained weights, the tokenizer with its chat template, and the generation settings to *folder*.

    All ranks must call it: sharded weights are gathered. Files in *folder* are replaced only when all new ones are on
    the disk; weights of an earlier run are moved to ``earlier/``. If only files beside the weights cannot be written,
    the weights are kept.

    Raises:
        SftError: on all ranks, if a file cannot be written.
    """
    staged = folder / "model.writing"

    def describe(error: Exception) -> str:
        return f"the trained model cannot be written to {folder}: {write_error_reason(folder, error)}"

    def write_weights() -> None:
        trainer.processing_class = None  # saved below
        trainer.save_model(str(staged))

    def write_side_files() -> None:
        tokenizer.save_pretrained(str(staged))
        trainer.accelerator.unwrap_model(trainer.model).generation_config.save_pretrained(str(staged))

    clear = partial(shutil.rmtree, staged, ignore_errors=True)
    ranks.run_on_writers(clear, describe)
    try:
        ranks.run_on_all(write_weights, describe)
        try:
            ranks.run_on_writers(write_side_files, describe)
        except SftError as error:
            ranks.run_on_writers(lambda: _publish(staged, folder), describe)
            raise SftError(f"{error}; the weights are written, but not all files beside them") from None
        ranks.run_on_writers(lambda: _publish(staged, folder), describe)
    finally:  # when no rank writes any more
        if ranks.is_writer:
            clear()


def try_side_files(trainer: Any, tokenizer: Any, folder: Path) -> None:
    """Write all files of the trained model but its weights to *folder*, and remove them: before hours of training.

    Raises:
        SftError: one cannot be written.
    """
    model, trial = trainer.accelerator.unwrap_model(trainer.model), folder / "model.trial"
    parts = [model.config, *getattr(model, "peft_config", {}).values(), tokenizer, model.generation_config]
    shutil.rmtree(trial, ignore_errors=True)
    for part in parts:
        try:
            trial.mkdir(exist_ok=True)
            part.save_pretrained(str(trial))
        except Exception as error:
            problem = f"the {type(part).__name__} of the model cannot be saved, so neither could it after training"
            raise SftError(f"{problem}: {write_error_reason(folder, error)}") from None
        finally:
            shutil.rmtree(trial, ignore_errors=True)


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
