from __future__ import annotations

from typing import Any

import pytest

from sftcore.core.errors import ConfigError, DataError, PluginError, RowError, SftError, json_type, nearest


@pytest.mark.parametrize("kind", [ConfigError, PluginError, DataError, RowError])
def test_every_error_class_is_one_that_the_user_can_fix(kind: type[SftError]) -> None:
    assert issubclass(kind, SftError)
    assert kind.exit_code == 2


@pytest.mark.parametrize(
    ("word", "hint"),
    [("lorra", "; did you mean 'lora'?"), ("zzz", ""), ("", ""), (3, "")],
)
def test_nearest(word: Any, hint: str) -> None:
    assert nearest(word, ["full", "lora", "qlora"]) == hint


def test_nearest_of_choices_that_are_not_strings() -> None:
    assert nearest("101", [100, 1010]) == "; did you mean '1010'?"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "null"),
        ("x", "a string"),
        (True, "a boolean"),
        (1, "a number"),
        (1.5, "a number"),
        ([], "a list"),
        ({}, "an object"),
        (b"x", "bytes"),
    ],
)
def test_json_type(value: object, name: str) -> None:
    assert json_type(value) == name
