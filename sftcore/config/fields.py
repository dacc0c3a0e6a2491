"""The options of a dataclass: filled from a mapping, checked against the annotations, described.

One way for everything that a YAML file may hold: the sections of the configuration, the
components, and the dataclasses of other libraries that a component hands options on to.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sftcore.config.document import Document, Keys
from sftcore.core.components import FURTHER
from sftcore.core.errors import FieldError, SftError, nearest
from sftcore.runtime.redaction import REDACTED, is_secret

T = TypeVar("T")


def fill(
    cls: type[T],
    values: object,
    document: Document,
    keys: Keys,
    known: Mapping[str, Any] | None = None,
    elsewhere: Mapping[str, str] | None = None,
) -> T:
    """Return an instance of the dataclass *cls* made of *values*, which stand at *keys* of *document*.

    A value is converted to its field's annotation (``"8"`` to 8 for an int); a ``Path`` is
    resolved against the document. *known* holds values that are ready, taken as they are. *elsewhere* says of
    keys that do not belong here where they do.

    Raises:
        ConfigError: an unknown or missing key, or a value of another type, with its place.
    """
    fields, further = _fields(cls)
    given = check(cls, values, document, keys, ready=known or {}, further=further, elsewhere=elsewhere)
    given.update(known or {})
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in given:
            raise document.error(keys, f"the key '{name}' is missing")
    try:
        return cls(**given)
    except FieldError as error:
        raise document.error((*keys, error.field), str(error)) from None
    except SftError as error:
        raise document.error(keys, str(error)) from None
    except (TypeError, ValueError) as error:
        raise document.error(keys, f"{error}") from None


def check(
    cls: type,
    values: object,
    document: Document,
    keys: Keys,
    ready: Mapping[str, Any] | None = None,
    further: str | None = None,
    elsewhere: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return *values* checked against the fields of the dataclass *cls* and converted to them.

    Args:
        ready: keys that are left out, because they are dealt with elsewhere.
        further: a field that collects the options of another dataclass (``further_options``).
        elsewhere: keys that are not known here, and where they belong.

    Raises:
        ConfigError: an unknown key, or a value of another type, with its place.
    """
    if not isinstance(values, Mapping):
        raise document.error(keys, f"must be a mapping of options, not {shown(values)}")
    fields, _ = _fields(cls)
    hints = _hints(cls)
    other = _load(fields[further].metadata[FURTHER], document, keys) if further else None
    others = _fields(other)[0] if other else {}
    given: dict[str, Any] = {}
    handed: dict[str, Any] = {}
    for key, value in values.items():
        if ready and key in ready:
            continue
        if key in fields and key != further:
            given[key] = _convert(hints.get(key, Any), value, document, (*keys, key))
        elif key in others and other:
            handed[key] = _convert(_hints(other).get(key, Any), value, document, (*keys, key))
        else:
            choices = [*(name for name in fields if name != further), *others, *(ready or ())]
            hint = f"; it is {elsewhere[key]}" if elsewhere and key in elsewhere else nearest(key, choices)
            raise document.error((*keys, key), f"unknown key{hint}")
    if further and handed:
        given[further] = handed
    return given


def written(component: Any) -> dict[str, Any]:
    """Return the options of the dataclass instance *component* as one writes them, so that :func:`fill` makes it."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(component):
        if not field.init:
            continue
        value = getattr(component, field.name)
        if FURTHER in field.metadata:
            values.update(value)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            values[field.name] = written(value)
        else:
            values[field.name] = str(value) if isinstance(value, Path) else value
    return values


def _fields(cls: type) -> tuple[dict[str, dataclasses.Field[Any]], str | None]:
    """Return the fields that may be given, and the name of the one that takes further options."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    further = next((name for name, field in fields.items() if FURTHER in field.metadata), None)
    return fields, further


def _hints(cls: type) -> dict[str, Any]:
    """Return the annotations of *cls*; those that cannot be resolved here accept anything."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except Exception:  # a library may annotate with what it imports for type checkers only
        return {}


def _load(target: str, document: Document, keys: Keys) -> type:
    """Return the dataclass at ``"package.module:Class"``."""
    module, _, name = target.partition(":")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise document.error(keys, f"needs {target}, which cannot be imported: {error}") from None
    assert isinstance(cls, type)
    return cls


def _convert(hint: Any, value: Any, document: Document, keys: Keys) -> Any:
    """Return *value* as its annotation has it."""
    if (section := _section(hint)) and value is not None:
        return fill(section, value, document, keys)
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    if isinstance(value, bool) and (number := _number(hint)):  # pydantic would take true for 1
        raise document.error(keys, f"should be {number}, got {_got(value, keys)}")
    try:
        converted = TypeAdapter(
            hint, config=None if _has_config(hint) else ConfigDict(arbitrary_types_allowed=True)
        ).validate_python(value)
    except ValidationError as error:
        inner, got, wanted = _expected(error.errors(), value)
        raise document.error((*keys, *inner), f"should be {wanted}, got {_got(got, keys)}") from None
    except PydanticUserError:  # an annotation that pydantic has no schema for
        return value
    if not isinstance(converted, Path):
        return converted
    try:
        return document.locate(str(value))
    except SftError as error:
        raise document.error(keys, str(error)) from None


_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "dict": "a mapping",
    "mapping": "a mapping",
    "string": "text",
    "path": "a path",
}
"""What pydantic wanted, by the first word of the type of its error."""


def _expected(problems: Sequence[Any], value: Any) -> tuple[Keys, Any, str]:
    """Return where within *value* the *problems* are that pydantic found, what is there, and what should be.

    There is one problem for each member of a union. The deepest tell of the member that was meant.
    """
    found: list[tuple[Keys, Any, list[str]]] = []
    for problem in problems:
        inner: list[str | int] = []
        at = value
        for step in problem["loc"]:  # may have names of the members of a union too
            listed = isinstance(at, (list, tuple)) and isinstance(step, int) and step < len(at)
            if listed or (isinstance(at, Mapping) and step in at):
                inner, at = [*inner, step], at[step]
        if problem["type"] in ("literal_error", "enum"):
            first, _, last = str(problem["ctx"]["expected"]).rpartition(" or ")
            wanted = [*(first.split(", ") if first else []), last]
        else:
            told = str(problem["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
            wanted = [_WANTED.get(problem["type"].partition("_")[0], told)]
        found.append((tuple(inner), at, wanted))
    deepest = max(len(inner) for inner, _, _ in found)
    keys, got, _ = next(one for one in found if len(one[0]) == deepest)
    choices = list(dict.fromkeys(choice for inner, _, wanted in found if inner == keys for choice in wanted))
    if "a number" in choices and "a whole number" in choices:
        choices.remove("a whole number")
    return keys, got, " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))


def _number(hint: Any) -> str:
    """Return the kind of number that *hint* wants, if it does, and takes no truth value."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    members = typing.get_args(hint) if union else (hint,)
    if bool in members or typing.Any in members:
        return ""
    return "a number" if float in members else "a whole number" if int in members else ""


def shown(value: Any) -> str:
    """Return *value* as a message has it: ``null``, ``true``, ``'text'``."""
    return _yaml(value) if value is None or isinstance(value, bool) else repr(value)


def _got(value: Any, keys: Keys) -> str:
    """Return *value* as a message has it, unless it is secret by one of its *keys*."""
    return REDACTED if any(is_secret(str(key)) for key in keys) else shown(value)


def _has_config(hint: Any) -> bool:
    """Tell whether pydantic forbids to configure *hint* from outside."""
    return isinstance(hint, type) and (dataclasses.is_dataclass(hint) or typing.is_typeddict(hint))


def _section(hint: Any) -> type | None:
    """Return the dataclass that *hint* is, or is with None."""
    if isinstance(hint, type):
        return hint if dataclasses.is_dataclass(hint) else None
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        found = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return _section(found[0]) if len(found) == 1 else None
    return None


class Option(NamedTuple):
    """One option as it is shown to a user."""

    name: str
    type: str
    default: str
    description: str


def describe(cls: type) -> list[Option]:
    """Return the options of the dataclass *cls*, with the docstrings below its fields and its bases'."""
    texts = _docstrings(cls)
    options: list[Option] = []
    for name, field in _fields(cls)[0].items():
        if target := field.metadata.get(FURTHER):
            options.append(Option("...", "", "", f"every option of {target.replace(':', '.')}, under its own name"))
            continue
        default = "required"
        if field.default is not dataclasses.MISSING:
            default = _yaml(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            default = _yaml(field.default_factory())
        annotation = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        options.append(Option(name, annotation, default, texts.get(name, "")))
    return options


def _yaml(value: Any) -> str:
    """Return *value* as one writes it in YAML."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _docstrings(cls: type) -> dict[str, str]:
    """Return the string literal below each field, from the classes' own sources."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, text in itertools.pairwise(body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                    texts[name] = inspect.cleandoc(doc)
    return texts
