"""Private names of other packages: checked when a command starts, because a rename would change behaviour silently."""

from __future__ import annotations

import dis
import inspect
import itertools
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

    def problems(self) -> Iterator[str]:
        """Yield one text for each name that is missing or has changed."""
        named = {*self.overrides, *self.attributes}
        steps = {
            (step.opname, step.argval)
            for code in _code_of(self.owner)
            if not named.isdisjoint(code.co_names)  # the others name none, and take nearly all the time
            for step in dis.get_instructions(code)
            if step.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR")
        }
        for name, expected in {**self.calls, **self.overrides}.items():
            if not callable(function := getattr(self.owner, name, None)):
                yield f"{name} does not exist"
                continue
            parameters = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]
            if parameters[: len(expected)] != list(expected):
                yield f"{name} takes ({', '.join(parameters)}), not ({', '.join(expected)}, ...)"
            if name in self.overrides and steps.isdisjoint({("LOAD_ATTR", name), ("LOAD_METHOD", name)}):
                yield f"{name} is not called any more"
        for name in self.attributes:
            if ("STORE_ATTR", name) not in steps and not hasattr(self.owner, name):
                yield f"{name} does not exist"


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


def _code_of(owner: object) -> Iterator[CodeType]:
    """Yield the code of all methods and properties of *owner*, if it is a class, and of the functions in them."""
    if isinstance(owner, CodeType):
        yield owner
        for constant in owner.co_consts:
            if isinstance(constant, CodeType):
                yield from _code_of(constant)
    elif isinstance(owner, type):
        for value in itertools.chain.from_iterable(vars(place).values() for place in inspect.getmro(owner)):
            getter: Any = getattr(value, "fget", None) or getattr(value, "func", None) or value  # of a property
            yield from _code_of(getattr(inspect.unwrap(getter), "__code__", None))


def _requirement(package: str) -> str:
    """The versions of *package* that sftcore requires, as in its metadata: ``transformers<6,>=5.20``."""
    try:
        lines = [line.partition(";")[0].strip() for line in requires("sftcore") or ()]
    except PackageNotFoundError:  # it runs from its sources
        return package
    return next((line for line in lines if re.split(r"[^\w.-]", line)[0].lower() == package), package)
