"""Which base model a name stands for, and what is said where it stands for none."""

from __future__ import annotations

from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from sftcore import ConfigError
from sftcore.base_model import find
from sftcore.config import ModelConfig
from sftcore.document import Document


def told(name: str) -> str:
    document = Document({"model": {}}, "c.yaml")
    document.override(f"model.name_or_path={name}")
    with pytest.raises(ConfigError) as error:
        find(ModelConfig(name), document)
    return str(error.value)


def test_a_mistyped_folder_is_told_with_its_place() -> None:
    expected = (
        "'model.name_or_path=tiyn': model.name_or_path: there is no folder tiyn here, and the hub cannot be asked: "
    )
    assert told("tiyn").startswith(expected)
    assert told("models/tiyn").endswith("environment variable.")
    assert told("a model").endswith("there is no folder a model here, and this is no hub id")


def test_the_hub_is_asked_once_and_not_for_what_is_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, float]] = []

    def model_info(self: object, name: str, timeout: float) -> None:
        asked.append((name, timeout))
        if name == "owner/nope":
            raise RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    assert find(ModelConfig("owner/there"), Document({})).location == "owner/there"
    assert asked == [("owner/there", 10)]
    assert told("owner/nope").endswith("the hub has no such model, or none that you may see")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: "/cache/config.json")
    find(ModelConfig("owner/nope"), Document({}))
    assert len(asked) == 2
