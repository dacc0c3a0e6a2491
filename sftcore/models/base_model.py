"""The base model: where its files are, its tokenizer, its weights, its fingerprint."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftcore.config.document import Document
from sftcore.config.schema import ModelConfig
from sftcore.core.components import Method
from sftcore.core.errors import ConfigError, SftError
from sftcore.runtime.console import count, first_line, status
from sftcore.runtime.files import file_sha256
from sftcore.runtime.paths import cache_folder

_WHOLE = 64 << 20
"""Files up to this many bytes go into a fingerprint whole; of larger ones only both ends and the size."""

_PATIENCE = 10
"""Seconds that the hub may take to say whether it has a model."""


@dataclass(frozen=True)
class BaseModel:
    """A base model that is at hand.

    Attributes:
        name: as the configuration names it.
        location: the folder, or the hub id, that ``from_pretrained`` takes.
    """

    name: str
    location: str
    config: ModelConfig

    def options(self) -> dict[str, Any]:
        """Return the arguments that every ``from_pretrained`` of this model takes."""
        return {"revision": self.config.revision, "trust_remote_code": self.config.trust_remote_code}

    def tokenizer(self) -> Any:
        """Return the tokenizer, with a padding token.

        Raises:
            ConfigError: there is none, or it cannot be loaded.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.location, **self.options())
        except Exception as error:  # missing files, no network, unknown classes: transformers raises many kinds
            raise ConfigError(f"the tokenizer of {self.name} cannot be loaded: {first_line(error)}") from error
        if tokenizer.pad_token_id is None:
            if tokenizer.eos_token is None:
                raise ConfigError(f"the tokenizer of {self.name} has neither a padding nor an end-of-sequence token")
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def load(self, method: Method) -> Any:
        """Return the model with its weights, as *method* wants them.

        Raises:
            ConfigError: the weights cannot be loaded.
        """
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        options = self.options()
        if self.config.attn_implementation != "auto":
            options["attn_implementation"] = self.config.attn_implementation
        dtype: Any = self.config.dtype
        try:
            if dtype == "auto":
                dtype = (
                    getattr(AutoConfig.from_pretrained(self.location, **self.options()), "dtype", None) or torch.float32
                )
            else:
                dtype = getattr(torch, dtype)
            options.update(method.load_options(dtype))
            model, info = AutoModelForCausalLM.from_pretrained(
                self.location, dtype=dtype, output_loading_info=True, **options
            )
        except SftError:
            raise
        except Exception as error:
            raise ConfigError(f"the model {self.name} cannot be loaded: {first_line(error)}") from error
        if missing := sorted(info["missing_keys"]):
            raise ConfigError(
                f"the model {self.name} lacks {count(len(missing), 'weight')} of its architecture, "
                f"which would start random: {', '.join(missing[:3])}, ..."
            )
        return model

    def fingerprint(self, model: Any) -> str:
        """Return what identifies the weights: the hub's commit, or a SHA-256 over the folder's files."""
        if commit := self._commit(model):
            return f"commit:{commit}"
        folder, digest = Path(self.location), hashlib.sha256()
        if not folder.is_dir():  # of the hub, but its cache does not say the commit
            return "unknown"
        for file in sorted(path for path in folder.iterdir() if path.is_file()):
            digest.update(f"{file.name}:{file.stat().st_size}:".encode())
            with file.open("rb") as data:
                if file.stat().st_size <= _WHOLE:
                    digest.update(data.read())
                else:
                    digest.update(data.read(_WHOLE // 2))
                    data.seek(-_WHOLE // 2, os.SEEK_END)
                    digest.update(data.read())
        return f"sha256:{digest.hexdigest()}"

    def _commit(self, model: Any) -> str | None:
        """Return the commit of a hub model that was loaded, or None if the model is a folder."""
        if Path(self.location).is_dir():
            return None
        if commit := getattr(model.config, "_commit_hash", None):
            return str(commit)
        import huggingface_hub

        # a configuration with code of its own has lost it; the folder of the snapshot is called by it
        file = huggingface_hub.try_to_load_from_cache(self.location, "config.json", revision=self.config.revision)
        return Path(file).parent.name if isinstance(file, str) else None

    def code(self, model: Any, *others: Any) -> dict[str, Any] | None:
        """Return what identifies the Python code that comes with the model and may be run, or None if none may.

        Args:
            others: what was loaded beside the model; all modules that came with a model are named.
        """
        if not self.config.trust_remote_code:
            return None
        folder, digest = Path(self.location), hashlib.sha256()
        classes = {cls for one in (model, model.config, *others) for cls in type(one).__mro__}
        modules = sorted({cls.__module__ for cls in classes if _is_remote(cls)})
        if not folder.is_dir():
            return {"commit": self._commit(model), "modules": modules}
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{file.relative_to(folder).as_posix()}:{file.stat().st_size}:".encode())
            digest.update(file.read_bytes())
        return {"sha256": digest.hexdigest(), "modules": modules}


def _is_remote(cls: type) -> bool:
    """Tell whether *cls* came with a model: transformers gives its module a name with the commit in it."""
    return cls.__module__.startswith("transformers_modules.")


def find(config: ModelConfig, document: Document) -> BaseModel:
    """Return the base model that *config* names; a GGUF file is made a folder first.

    Raises:
        ConfigError: there is no such file or package.
    """
    keys = ("model", "name_or_path")
    try:
        path = document.locate(config.name_or_path)
    except ConfigError as error:
        raise document.error(keys, str(error)) from None
    if path.suffix == ".gguf":
        if not path.is_file():
            raise document.error(keys, f"there is no file {path}")
        return BaseModel(config.name_or_path, str(_from_gguf(path)), config)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise document.error(keys, f"the folder {path} holds no model (no config.json)")
        return BaseModel(config.name_or_path, str(path), config)
    if path.is_file() or config.name_or_path.startswith((".", "/", "~")) or config.name_or_path.count("/") > 1:
        raise document.error(keys, f"{config.name_or_path} is neither a folder with a model, a .gguf file nor a hub id")
    _check_hub(config, document)
    return BaseModel(config.name_or_path, config.name_or_path, config)


def _check_hub(config: ModelConfig, document: Document) -> None:
    """Raise at once if the hub has no such model, or cannot be asked: a mistyped folder looks like the id of one."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    name, keys = config.name_or_path, ("model", "name_or_path")
    try:
        if isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json", revision=config.revision), str):
            return
        huggingface_hub.HfApi().model_info(name, timeout=_PATIENCE)
    except HFValidationError:
        raise document.error(keys, f"there is no folder {name} here, and this is no hub id") from None
    except RepositoryNotFoundError:
        problem = f"there is no folder {name} here, and the hub has no such model, or none that you may see"
        raise document.error(keys, problem) from None
    except Exception as error:  # of the network, of the hub, or of the client: no kind is common to them
        problem = f"there is no folder {name} here, and the hub cannot be asked: {first_line(error)}"
        raise document.error(keys, problem) from None


def _from_gguf(path: Path) -> Path:
    """Return a folder with the model in the GGUF file *path*, de-quantized to float32.

    It is made once per content of the file and kept, so that all that works with an ordinary
    folder (quantizing anew, sharding, many processes, loading an adapter later) works with it.
    """
    folder = cache_folder() / "gguf" / f"{path.stem}-{file_sha256(path)[:16]}"
    if (folder / "config.json").is_file():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
    status("model", f"de-quantizing {path.name}, once; it is kept in {folder.parent}")
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be switched off otherwise
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
            model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32)
        # the weights are plain now, but transformers still holds them for GGUF and would refuse to save
        model.hf_quantizer, model.is_quantized = None, False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        try:
            staging.rename(folder)
        except OSError:  # another process was faster; its folder is the same
            if not (folder / "config.json").is_file():
                raise
    except Exception as error:
        raise ConfigError(f"the GGUF file {path} cannot be converted: {first_line(error)}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder
