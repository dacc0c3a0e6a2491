"""Private names of other packages: checked when a command starts, because a rename would change behaviour silently."""

from __future__ import annotations

import dis
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from types import CodeType, ModuleType
from typing import Any

from sftcore.core.errors import SftError


@dataclass(frozen=True)
class PrivateNames:
    """Names in a class or module of another package that sftcore uses although they may change in any release.

    Attributes:
        owner: the class or module.
        calls: functions that sftcore calls, each with the leading parameters that it relies on.
        overrides: methods that sftcore overrides, likewise; a method of *owner* must still call them.
        attributes: values that *owner* holds, or that its methods set on their instance.
    """

    owner: type | ModuleType
    calls: Mapping[str, Sequence[str]] = field(default_factory=dict)
    overrides: Mapping[str, Sequence[str]] = field(default_factory=dict)
    attributes: Sequence[str] = ()

    def problems(self) -> list[str]:
        """One text for each name that is missing or has changed."""
        used, assigned = _names_in_code(self.owner)
        found = [_signature_problem(self.owner, *item) for item in {**self.calls, **self.overrides}.items()]
        unused = [f"{name} is not called any more" for name in self.overrides if name not in used]
        missing = [name for name in self.attributes if name not in assigned and not hasattr(self.owner, name)]
        return [problem for problem in found if problem] + unused + [f"{name} does not exist" for name in missing]


def check_private_names(package: str, *names: PrivateNames) -> None:
    """Check that the installed *package* still has all *names*.

    Raises:
        SftError: names are missing or changed; the message has the installed version and the tested ones.
    """
    problems = [f"{each.owner.__name__}: {problem}" for each in names for problem in each.problems()]
    if problems:
        raise SftError(
            f"{package} {version(package)} does not fit this version of sftcore, which is tested with "
            f"{_requirement(package)}: {'; '.join(problems)}. Install a tested version of {package}, or a newer sftcore"
        )


def _signature_problem(owner: object, name: str, expected: Sequence[str]) -> str | None:
    function = getattr(owner, name, None)
    if not callable(function):
        return f"{name} does not exist"
    parameters = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]
    if parameters[: len(expected)] == list(expected):
        return None
    return f"{name} takes ({', '.join(parameters)}), not ({', '.join(expected)}, ...)"


def _names_in_code(owner: type | ModuleType) -> tuple[set[str], set[str]]:
    """The attributes that the methods of *owner* read, and those that they set."""
    used: set[str] = set()
    assigned: set[str] = set()
    for code in _code_of(owner):
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                used.add(step.argval)
            elif step.opname == "STORE_ATTR":
                assigned.add(step.argval)
    return used, assigned


def _code_of(owner: type | ModuleType) -> Iterator[CodeType]:
    for place in inspect.getmro(owner) if isinstance(owner, type) else ():
        for value in vars(place).values():
            getter: Any = getattr(value, "fget", None) or getattr(value, "func", None) or value  # of a property
            if (code := getattr(inspect.unwrap(getter), "__code__", None)) is not None:
                yield from _with_nested(code)


def _with_nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_nested(constant)


def _requirement(package: str) -> str:
    """The versions of *package* that sftcore requires, as in its metadata: ``transformers<6,>=5.20``."""
    try:
        lines = requires("sftcore") or []
    except PackageNotFoundError:
        lines = []
    named = (line.partition(";")[0].strip() for line in lines)
    return next((line for line in named if re.split(r"[^\w.-]", line)[0].lower() == package), package)
