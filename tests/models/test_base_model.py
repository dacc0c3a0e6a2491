"""Which base model a name stands for, and the errors where it stands for none."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from sftcore import ConfigError, Method
from sftcore.config.document import Document
from sftcore.config.schema import ModelConfig
from sftcore.models.base_model import BaseModel, resolve_base_model


def error_of(name: str) -> str:
    document = Document({"model": {}}, "c.yaml")
    document.override(f"model.name_or_path={name}")
    with pytest.raises(ConfigError) as error:
        resolve_base_model(ModelConfig(name), document)
    return str(error.value)


def test_a_mistyped_model_folder_is_an_error_with_its_place() -> None:
    expected = (
        "'model.name_or_path=tiyn': model.name_or_path: the folder tiyn does not exist, and the hub cannot be reached: "
    )
    assert error_of("tiyn").startswith(expected)
    assert error_of("models/tiyn").endswith("environment variable.")
    assert error_of("a model").endswith("the folder a model does not exist, and this is not a hub id")


def test_an_adapter_is_no_base_model(tmp_path: Path, tiny: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny / name, tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "holds an adapter, which would be loaded too; merge it into its base model first" in error_of(str(tmp_path))
    (tmp_path / "config.json").unlink()
    assert "holds an adapter" in error_of(str(tmp_path))


def test_the_hub_is_asked_once_and_not_for_a_model_in_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, float]] = []

    def model_info(self: object, name: str, timeout: float) -> None:
        asked.append((name, timeout))
        if name == "owner/nope":
            raise RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    assert resolve_base_model(ModelConfig("owner/there"), Document({})).location == "owner/there"
    assert asked == [("owner/there", 10)]
    assert error_of("owner/nope").endswith("the hub has no such model, or none that you may access")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: "/cache/config.json")
    resolve_base_model(ModelConfig("owner/nope"), Document({}))
    assert len(asked) == 2


OWN = """
import pathlib
from transformers import LlamaConfig, LlamaForCausalLM

pathlib.Path({canary!r}).touch()


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def coded(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with remote code that creates the file ``ran`` beside it when it runs."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)
    folder = Path(shutil.copytree(tiny, tmp_path / "coded"))
    (folder / "own.py").write_text(OWN.format(canary=str(tmp_path / "ran")))
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": names}))
    return folder


def loaded(folder: Path | str, **options: Any) -> tuple[BaseModel, Any]:
    base = resolve_base_model(ModelConfig(str(folder), **options), Document({}))
    return base, base.load_model(Method())


def test_remote_code_runs_only_with_trust_remote_code_and_has_a_fingerprint(coded: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        loaded(coded)
    assert not (coded.parent / "ran").exists()
    base, model = loaded(coded, trust_remote_code=True)
    assert (coded.parent / "ran").exists()
    first = base.remote_code(model)
    assert first is not None
    assert [name.rpartition(".")[2] for name in first["modules"]] == ["own"]
    (coded / "own.py").write_text((coded / "own.py").read_text() + "\n")
    second = base.remote_code(model)
    assert second is not None
    assert second["sha256"] != first["sha256"]


def test_a_model_without_trust_remote_code_has_no_remote_code(tiny: Path) -> None:
    base, model = loaded(tiny)
    assert base.remote_code(model) is None


def test_remote_code_from_the_hub_is_identified_by_its_commit(
    coded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is in the hub's cache, as a download leaves it."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "hub" / "models--some-owner--coded"
    shutil.copytree(coded, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        loaded("some-owner/coded")
    assert not (tmp_path / "ran").exists()
    base, model = loaded("some-owner/coded", trust_remote_code=True)
    code = base.remote_code(model)
    assert code is not None
    assert base.fingerprint(model) == f"commit:{code['commit']}" == f"commit:{commit}"
    assert code["modules"]
    assert all(commit in name for name in code["modules"])


def test_a_folder_without_a_tokenizer_is_named(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*", "vocab*"))
    base = resolve_base_model(ModelConfig(str(tmp_path / "bare")), Document({}))
    with pytest.raises(ConfigError, match=r"bare cannot be loaded: the folder has none of tokenizer.json, \*.model"):
        base.load_tokenizer()
