"""GGUF files as model folders that ``from_pretrained`` loads."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

from sftcore.core.errors import ConfigError
from sftcore.runtime.console import first_line, status
from sftcore.runtime.file_io import file_sha256
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
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    status("model", f"de-quantizing {path.name}, once; it is cached in {folder.parent}")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as temporary:
        staging = Path(temporary, "model")
        try:
            _dequantize(path, staging)
            staging.rename(folder)
        except Exception as error:
            if not (folder / "config.json").is_file():  # otherwise another process was faster; its folder is the same
                raise ConfigError(f"the GGUF file {path} cannot be converted: {first_line(error)}") from error
    return folder


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
