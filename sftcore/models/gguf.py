"""GGUF files as model folders that ``from_pretrained`` loads."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from pathlib import Path

from sftcore.core.errors import ConfigError
from sftcore.runtime.console import first_line, status, warn
from sftcore.runtime.file_io import file_sha256, file_xxh3
from sftcore.runtime.paths import cache_folder


def convert_gguf(path: Path) -> Path:
    """The folder with the model in the GGUF file *path*, de-quantized to float32.

    It is made once per content of the file and cached, so that all that works with an ordinary folder (quantizing
    again, sharding, many processes, loading an adapter later) works with it.

    Raises:
        ConfigError: transformers cannot read the file.
    """
    folder = cache_folder() / "gguf" / f"{path.stem}-{file_sha256(path)[:16]}"
    if (folder / "config.json").is_file():
        if _is_intact(folder):
            return folder
        warn(f"the model in {folder} is damaged, and is de-quantized again")
        shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    status("model", f"de-quantizing {path.name}, once; it is cached in {folder.parent}")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as temporary:
        staging = Path(temporary, "model")
        try:
            _dequantize(path, staging)
            (staging / _DIGESTS).write_text(json.dumps(_digests(staging)), encoding="utf-8")
            staging.rename(folder)
        except Exception as error:
            if not (folder / "config.json").is_file():  # otherwise another process was faster; its folder is the same
                raise ConfigError(f"the GGUF file {path} cannot be converted: {first_line(error)}") from error
    return folder


_DIGESTS = "digests.json"


def _digests(folder: Path) -> dict[str, str]:
    """The digest of each file in *folder*, but of that which has them."""
    return {file.name: file_xxh3(file) for file in sorted(folder.iterdir()) if file.name != _DIGESTS}


def _is_intact(folder: Path) -> bool:
    """Whether all files in *folder* are as they were written."""
    try:
        return bool(json.loads((folder / _DIGESTS).read_text(encoding="utf-8")) == _digests(folder))
    except (OSError, ValueError, RecursionError):
        return False


def _dequantize(path: Path, folder: Path) -> None:
    """Save model and tokenizer of the GGUF file *path* in *folder*."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with contextlib.redirect_stderr(io.StringIO()):  # the only way to switch its progress bar off
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32)
    # the weights are plain now, but transformers still takes them for GGUF and would refuse to save
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
