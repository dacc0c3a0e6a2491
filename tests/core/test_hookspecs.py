from __future__ import annotations

import inspect
from typing import get_args

import pytest

import sftcore.core.components
from sftcore import BackendSpec, FormatSpec, hookimpl
from sftcore.core import hookspecs
from sftcore.core.components import KINDS

HOOKS = {name: value for name, value in vars(hookspecs).items() if name.startswith("register_")}


def test_one_hook_for_each_kind() -> None:
    assert list(HOOKS) == [f"register_{kind}s" for kind in KINDS]


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_has_no_arguments_and_returns_components_of_its_kind(name: str) -> None:
    signature = inspect.signature(HOOKS[name])
    assert not signature.parameters
    returned = eval(signature.return_annotation, {**vars(hookspecs), **vars(sftcore.core.components)})
    kind = name.removeprefix("register_").removesuffix("s")
    specs = {"format": [FormatSpec], "backend": [BackendSpec]}.get(kind, [])
    key, offer = get_args(returned)
    assert (key, *get_args(offer)) == (str, str, type[KINDS[kind]], *specs)
    assert HOOKS[name].__doc__


def test_the_marker_is_pluggys_for_this_project() -> None:
    assert hookimpl.project_name == hookspecs.PROJECT == "sftcore"


ROW = {"input": "q", "output": "a"}


@pytest.mark.parametrize(
    ("spec", "fits"),
    [
        (FormatSpec("m:C", keys=["input", "output"]), True),
        (FormatSpec("m:C", keys=["input"]), True),
        (FormatSpec("m:C", keys=["input", "instruction"]), False),
        (FormatSpec("m:C", keys=["input"], without=["output"]), False),
        (FormatSpec("m:C", keys=["input"], without=["instruction"]), True),
        (FormatSpec("m:C"), False),
    ],
)
def test_a_format_fits_a_row_by_its_keys(spec: FormatSpec, fits: bool) -> None:
    assert spec.fits(ROW) is fits


@pytest.mark.parametrize(
    ("environment", "recognised"),
    [
        ([], False),
        ([{"RANK": True}], True),
        ([{"RANK": True, "JOB": True}], False),
        ([{"RANK": True, "JOB": False}], True),
        ([{"JOB": True}, {"RANK": True}], True),
        ([{"RANK": False}], False),
    ],
)
def test_a_backend_recognises_its_launcher_by_environment_variables(environment, recognised: bool) -> None:
    assert BackendSpec("m:C", environment=environment).has_launched({"RANK": "0"}) is recognised


@pytest.mark.parametrize(
    "make", [lambda: FormatSpec("m:C", keys="messages"), lambda: BackendSpec("m:C", training_args="fsdp")]
)
def test_one_string_is_not_taken_for_a_sequence_of_letters(make) -> None:
    with pytest.raises(TypeError, match="must be a list of strings, not '"):
        make()
