"""The configurations that ship with sftcore."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import pytest

from sftcore.config import loader, schema
from sftcore.config.document import Document
from sftcore.config.fields import describe_options
from sftcore.core.registry import Registry

FOLDER = Path(__file__).parents[2] / "config"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_is_valid(file):
    from sftcore.data import prepare
    from sftcore.models import chat_template
    from sftcore.training import arguments

    document, registry = Document.load(file), Registry.discover()
    loaded = loader.load_config(document, registry, {})
    prepared = prepare(loaded, registry, chat_template.set_up_model(loaded).labeller)
    assert arguments.build_training_args(loaded, cpu=True, has_eval=bool(prepared.eval), environ={}).output_dir


def test_the_reference_has_every_key():
    loaded = loader.load_config(Document.load(FOLDER / "finetune_reference.yaml"), Registry.discover(), {})
    assert set(missing(schema.Config, loaded.document.data)) == set()


def test_a_key_that_is_left_out_is_found():
    assert set(missing(schema.Config, {"model": {"name_or_path": "x"}, "data": {}})) >= {
        "seed",
        "model.dtype",
        "data.train",
    }


def missing(section, values, prefix=""):
    """Yield every key of the dataclass *section* that *values* does not have."""
    hints = typing.get_type_hints(section)
    for option in describe_options(section):
        if option.name not in values:
            yield prefix + option.name
            continue
        for inner in (hints[option.name], *typing.get_args(hints[option.name])):
            inner = next(iter(typing.get_args(inner)), inner)
            value = values[option.name]
            value = value[0] if isinstance(value, list) and value else value
            if dataclasses.is_dataclass(inner) and inner.__module__ == schema.__name__ and isinstance(value, dict):
                if option.name == "eval" and inner is schema.SourceConfig:
                    continue
                yield from missing(inner, value, f"{prefix}{option.name}.")
