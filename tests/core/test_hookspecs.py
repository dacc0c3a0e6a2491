from __future__ import annotations

import inspect
from typing import get_args

import pytest

import sftcore.core.components
from sftcore import KINDS, hookimpl
from sftcore.core import hookspecs

HOOKS = {name: value for name, value in vars(hookspecs).items() if name.startswith("register_")}


def test_one_hook_for_each_kind() -> None:
    assert list(HOOKS) == [f"register_{kind}s" for kind in KINDS]


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_takes_nothing_and_returns_names_of_its_kind(name: str) -> None:
    signature = inspect.signature(HOOKS[name])
    assert not signature.parameters
    returned = eval(signature.return_annotation, {**vars(hookspecs), **vars(sftcore.core.components)})
    key, target = get_args(returned)
    assert (key, *get_args(target)) == (str, str, type[KINDS[name.removeprefix("register_").removesuffix("s")]])
    assert HOOKS[name].__doc__


def test_the_marker_is_pluggys_for_this_project() -> None:
    assert hookimpl.project_name == hookspecs.PROJECT == "sftcore"
