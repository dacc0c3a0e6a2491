"""The base model: its files, tokenizer, weights and fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftcore.config.document import Document
from sftcore.config.schema import ModelConfig
from sftcore.core.components import Method
from sftcore.core.errors import ConfigError, SftError
from sftcore.models.gguf import convert_gguf
from sftcore.runtime.console import count, first_line, warn

_HASHED_BYTES = 64 << 20  # of each file; of larger ones both ends
_MERGE = (
    "merge it into its base model first (PEFT: merge_and_unload, save_pretrained), or remove adapter_config.json to "
    "train the base model alone"
)
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
_TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
_HUB_TIMEOUT = 10  # seconds for the hub to answer whether it has a model


@dataclass(frozen=True)
class BaseModel:
    """A base model in a folder or on the hub.

    Attributes:
        name: as the configuration has it.
        location: the folder, or the hub id, that ``from_pretrained`` takes.
    """

    name: str
    location: str
    config: ModelConfig

    def pretrained_kwargs(self) -> dict[str, Any]:
        """The arguments that every ``from_pretrained`` call for this model needs."""
        return {"revision": self.config.revision, "trust_remote_code": self.config.trust_remote_code}

    def load_tokenizer(self) -> Any:
        """Load the tokenizer; without a padding token it pads with the end-of-sequence token.

        Raises:
            ConfigError: it does not exist, or cannot be loaded.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.location, **self.pretrained_kwargs())
        except Exception as error:  # missing files, no network, unknown classes: transformers raises many kinds
            folder, reason = Path(self.location), first_line(error)
            if folder.is_dir() and not any(path for kind in _TOKENIZER_FILES for path in folder.glob(kind)):
                reason = f"the folder has none of {', '.join(_TOKENIZER_FILES)}"
            raise ConfigError(f"the tokenizer of {self.name} cannot be loaded: {reason}") from error
        if tokenizer.pad_token_id is None:
            if tokenizer.eos_token is None:
                raise ConfigError(f"the tokenizer of {self.name} has neither a padding nor an end-of-sequence token")
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def load_model(self, method: Method) -> Any:
        """Load the model and its weights with the ``from_pretrained`` options of *method*.

        Raises:
            ConfigError: the model cannot be loaded, or weights of its architecture are missing.
        """
        from transformers import AutoModelForCausalLM

        kwargs = {**self.pretrained_kwargs(), **self._attention()}
        try:
            dtype = self._dtype(self._config())
            kwargs.update(method.load_options(dtype))
            model, info = AutoModelForCausalLM.from_pretrained(
                self.location, dtype=dtype, output_loading_info=True, **kwargs
            )
        except SftError:
            raise
        except Exception as error:
            raise ConfigError(f"the model {self.name} cannot be loaded: {first_line(error)}") from error
        if getattr(model, "_hf_peft_config_loaded", False):
            raise ConfigError(f"the model {self.name} has an adapter, which was loaded too; {_MERGE}")
        if missing := sorted(info["missing_keys"]):
            raise ConfigError(
                f"the model {self.name} lacks {count(len(missing), 'weight')} of its architecture, "
                f"which would be initialized randomly: {', '.join(missing[:3])}, ..."
            )
        if unused := sorted(info["unexpected_keys"]):
            warn(
                f"the model is trained without {count(len(unused), 'weight')} of its checkpoint, which "
                f"{type(model).__name__} does not have, such as {', '.join(unused[:3])}"
            )
        _mark_untied(model)
        return model

    def build_without_weights(self) -> Any:
        """The model on the meta device, in the type that its weights will have.

        Raises:
            ConfigError: it cannot be built.
        """
        import torch
        from transformers import AutoModelForCausalLM

        try:
            config = self._config()
            options = {"trust_remote_code": self.config.trust_remote_code, "dtype": self._dtype(config)}
            with torch.device("meta"):
                return AutoModelForCausalLM.from_config(config, **options, **self._attention())
        except Exception as error:
            raise ConfigError(f"the model {self.name} cannot be loaded: {first_line(error)}") from error

    def missing_weights(self) -> str:
        """Which files with weights the folder of the model lacks; empty if none, or on the hub."""
        folder = Path(self.location)
        if not folder.is_dir() or any((folder / name).is_file() for name in _WEIGHTS):
            return ""
        indexes = [path for name in _WEIGHTS if (path := folder / f"{name}.index.json").is_file()]
        if not indexes:
            return f"the folder {folder} holds no weights: none of {', '.join(_WEIGHTS)}"
        try:
            files = {*json.loads(indexes[0].read_text(encoding="utf-8"))["weight_map"].values()}
        except (OSError, ValueError, LookupError, AttributeError, RecursionError):
            return f"{indexes[0]} is not an index of weights"
        missing = sorted(name for name in files if not (folder / name).is_file())
        return f"the folder {folder} lacks {', '.join(missing[:3])}, of {count(len(files), 'file')}" if missing else ""

    def embedding_rows(self) -> int | None:
        """The number of token ids that the model has; None if its configuration does not say."""
        try:
            rows = getattr(self._config().get_text_config(), "vocab_size", None)
        except Exception:  # whatever transformers raises here, it raises again where the model is built
            return None
        return rows if isinstance(rows, int) else None

    def _config(self) -> Any:
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.location, **self.pretrained_kwargs())

    def _attention(self) -> dict[str, str]:
        chosen = self.config.attn_implementation
        return {} if chosen == "auto" else {"attn_implementation": chosen}

    def _dtype(self, config: Any) -> Any:
        import torch

        if self.config.dtype == "auto":
            return getattr(config, "dtype", None) or torch.float32
        return getattr(torch, self.config.dtype)

    def fingerprint(self, model: Any) -> str:
        """The identity of the weights: the commit on the hub, or a SHA-256 over the files of the folder."""
        if commit := self._commit(model):
            return f"commit:{commit}"
        folder = Path(self.location)
        if not folder.is_dir():  # of the hub, but its cache does not know the commit
            return "unknown"
        return f"sha256:{_files_sha256(folder, [path for path in folder.iterdir() if path.is_file()])}"

    def _commit(self, model: Any) -> str | None:
        """The commit of a hub model that was loaded; None for a folder."""
        if Path(self.location).is_dir():
            return None
        if commit := getattr(model.config, "_commit_hash", None):
            return str(commit)
        import huggingface_hub

        # a configuration class of the model's own drops it, but the folder of the snapshot is named after it
        file = huggingface_hub.try_to_load_from_cache(self.location, "config.json", revision=self.config.revision)
        return Path(file).parent.name if isinstance(file, str) else None

    def remote_code(self, model: Any, *others: Any) -> dict[str, Any] | None:
        """The identity of the Python code that comes with the model; None without ``trust_remote_code``.

        Args:
            others: what else was loaded, such as the tokenizer; the result lists all modules that came with a model.
        """
        if not self.config.trust_remote_code:
            return None
        folder = Path(self.location)
        classes = {cls for item in (model, model.config, *others) for cls in type(item).__mro__}
        modules = sorted({cls.__module__ for cls in classes if cls.__module__.startswith("transformers_modules.")})
        if not folder.is_dir():
            return {"commit": self._commit(model), "modules": modules}
        return {"sha256": _files_sha256(folder, folder.rglob("*.py")), "modules": modules}


def _mark_untied(model: Any) -> None:
    """Have the configuration of *model* say that its output layer has its own weights, where the checkpoint has them.

    transformers loads them whatever the configuration says; others that load what is saved believe the configuration.
    """
    head, text_config = model.get_output_embeddings(), model.config.get_text_config()
    tied = getattr(text_config, "tie_word_embeddings", False)
    if tied and head is not None and not model.all_tied_weights_keys and hasattr(head, "weight"):
        warn(
            "the checkpoint has its own weights for the output layer, although config.json says tie_word_embeddings: "
            "they are used, and the saved config.json says so"
        )
        text_config.tie_word_embeddings = model.config.tie_word_embeddings = False


def _files_sha256(folder: Path, paths: Iterable[Path]) -> str:
    """SHA-256 over the names, sizes and contents of files; of large ones only both ends are read."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}:{size}:".encode())
        with path.open("rb") as data:
            digest.update(data.read(size if size <= _HASHED_BYTES else _HASHED_BYTES // 2))
            if size > _HASHED_BYTES:
                data.seek(-_HASHED_BYTES // 2, os.SEEK_END)
                digest.update(data.read())
    return digest.hexdigest()


def resolve_base_model(config: ModelConfig, document: Document) -> BaseModel:
    """The base model that *config* names; a GGUF file is converted to a folder first.

    Raises:
        ConfigError: the file, folder, package or hub model does not exist.
    """
    keys = ("model", "name_or_path")
    try:
        path = document.locate(config.name_or_path)
    except ConfigError as error:
        raise document.error(keys, str(error)) from None
    if path.suffix == ".gguf":
        if not path.is_file():
            raise document.error(keys, f"the file {path} does not exist")
        return BaseModel(config.name_or_path, str(convert_gguf(path)), config)
    if path.is_dir():
        if (path / "adapter_config.json").is_file():
            raise document.error(keys, f"the folder {path} holds an adapter, which would be loaded too; {_MERGE}")
        if not (path / "config.json").is_file():
            raise document.error(keys, f"the folder {path} holds no model: it has no config.json")
        return BaseModel(config.name_or_path, str(path), config)
    if path.is_file() or config.name_or_path.startswith((".", "/", "~")) or config.name_or_path.count("/") > 1:
        raise document.error(keys, f"{config.name_or_path} is neither a folder with a model, a .gguf file nor a hub id")
    _check_hub(config, document)
    return BaseModel(config.name_or_path, config.name_or_path, config)


def _check_hub(config: ModelConfig, document: Document) -> None:
    """Fail early if the hub does not have the model or cannot be reached: a mistyped folder looks like a hub id."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    name = config.name_or_path
    try:
        if not isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json", revision=config.revision), str):
            huggingface_hub.HfApi().model_info(name, timeout=_HUB_TIMEOUT)
        return
    except HFValidationError:
        problem = "this is not a hub id"
    except RepositoryNotFoundError:
        problem = "the hub has no such model, or none that you may access"
    except Exception as error:  # network, hub or client: they share no base class
        problem = f"the hub cannot be reached: {first_line(error)}"
    raise document.error(("model", "name_or_path"), f"the folder {name} does not exist, and {problem}")
