"""What a run leaves behind: the adapter or model, with what is needed to serve it as it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sftcore.errors import ConfigError
from sftcore.report import is_main_process


def save(trainer: Any, tokenizer: Any, folder: Path) -> None:
    """Write the trained weights, the tokenizer with its chat template, and the generation settings.

    All ranks must call it: weights that are spread over them are gathered.
    """
    trainer.save_model(str(folder))
    if is_main_process():
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; run.json has the same as text
        tokenizer.save_pretrained(str(folder))
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.generation_config.save_pretrained(str(folder))


def resume_from(args: Any, folder: Path) -> str | None:
    """Return the checkpoint that ``training_args.resume_from_checkpoint`` asks for, or None.

    ``true`` stands for the newest in *folder*, and for a fresh start where there is none.

    Raises:
        ConfigError: it names a folder that is no checkpoint.
    """
    from transformers.trainer_utils import get_last_checkpoint

    wanted = args.resume_from_checkpoint
    if wanted in (None, False, "false", "False"):
        return None
    if wanted in (True, "true", "True"):
        return get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if not (Path(wanted) / "trainer_state.json").is_file():
        raise ConfigError(
            f"training_args.resume_from_checkpoint: {wanted} is no checkpoint (it has no trainer_state.json)"
        )
    return str(wanted)
