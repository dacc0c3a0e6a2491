"""The options of dataclasses: read from a mapping, checked against the annotations, written back, and described.

Sections of the configuration, components, and dataclasses of other libraries all go this way.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import itertools
import json
import re
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sftcore.config.document import Document, Keys, dotted
from sftcore.config.schema import SYNONYMS
from sftcore.core.components import FURTHER
from sftcore.core.errors import FieldError, SftError, nearest
from sftcore.runtime.redaction import REDACTED, is_secret, redact, register_secrets

T = TypeVar("T")


def from_mapping(
    cls: type[T],
    values: object,
    document: Document,
    keys: Keys,
    ready: Mapping[str, Any] | None = None,
    misplaced: Mapping[str, str] | None = None,
) -> T:
    """Return an instance of the dataclass *cls* with *values*, converted to the annotations of its fields.

    Args:
        keys: the place of *values* in *document*, for errors and relative paths.
        ready: values of fields that are taken as they are.
        misplaced: full names of keys that belong elsewhere.

    Raises:
        ConfigError: an unknown or missing key, or an invalid value, with its place.
    """
    options = check_options(cls, values, document, keys, ready, misplaced) | dict(ready or {})
    _register_defaults(cls)
    try:
        return cls(**options)
    except FieldError as error:
        raise document.error((*keys, error.field), str(error)) from None
    except (SftError, TypeError, ValueError) as error:
        raise document.error(keys, str(error)) from None


def check_options(
    cls: type,
    values: object,
    document: Document,
    keys: Keys,
    ready: Mapping[str, Any] | None = None,
    misplaced: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the arguments of *cls* in :func:`from_mapping`: converted values by field, without *ready* ones."""
    if not isinstance(values, Mapping):
        raise document.error(keys, f"must be a mapping of options, not {format_value(values)}")
    fields = _fields(cls)
    options: dict[str, Any] = {}
    known: dict[object, tuple[Any, dict[str, Any]]] = {}  # the annotation of each key, and where its value belongs
    for name, hint in _hints(cls).items():
        if target := fields[name].metadata.get(FURTHER):
            options[name] = {}
            further = _hints(_load(target, document, keys))
            known = {key: (inner, options[name]) for key, inner in further.items()} | known
        else:
            known[name] = hint, options
    problems, hints = document.collect(), ""
    for key, value in values.items():
        if key in (ready or ()):
            continue
        with problems:
            if key not in known:
                hints += (hint := _hint(key, known, misplaced or {}))
                raise document.error((*keys, key), f"unknown key{hint}")
            annotation, chosen = known[key]
            chosen[key] = _convert(annotation, value, document, (*keys, key))
    for name in _required(cls) - values.keys() - (ready or {}).keys():
        with problems:
            if f"'{name}'" not in hints:  # else it is misspelled, and reported as that
                raise document.error(keys, f"the key '{name}' is missing")
    problems.raise_all()
    return options


def option_names(cls: type | str) -> set[str]:
    """Return the names of all options of the dataclass *cls*, or at ``"package.module:Class"``; further ones too."""
    cls = _load(cls, Document({}), ()) if isinstance(cls, str) else cls
    targets = [target for field in _fields(cls).values() if (target := field.metadata.get(FURTHER))]
    return {*_fields(cls)}.union(*map(option_names, targets))


def _hint(key: object, known: Mapping[object, object], misplaced: Mapping[str, str]) -> str:
    """Return the place or name that the unknown *key* may stand for, or the nearest of the *known* ones."""
    bare = str(key).partition("_")[2]  # without the prefix that other frameworks give to options
    for name in (str(key), SYNONYMS.get(str(key), ""), bare, SYNONYMS.get(bare, "")):
        if name in misplaced:
            return f"; it is {misplaced[name]}"
        if name in known:
            return f"; did you mean '{name}'?"
    return nearest(str(key), map(str, known))


def to_mapping(value: Any, names: Mapping[str, str] | None = None, keys: Keys = ()) -> Any:
    """Return *value* as plain data: the options of a dataclass, such that :func:`from_mapping` creates it again.

    *names* has the ``name`` to add to each component in *value*, by its dotted key; *keys* is the place of *value*.
    """
    if dataclasses.is_dataclass(value):
        name = names and names.get(dotted(keys))
        options: dict[str, Any] = {"name": name} if name else {}
        for key, field in _fields(type(value)).items():
            plain = to_mapping(getattr(value, key), names, (*keys, key))
            options.update(plain if FURTHER in field.metadata else {key: plain})
        return options
    if isinstance(value, Mapping):
        return {key: to_mapping(item, names, (*keys, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_mapping(item, names, (*keys, index)) for index, item in enumerate(value)]
    return str(value) if isinstance(value, Path) else value


def _register_defaults(cls: type) -> None:
    """Have the defaults that are secrets redacted: a plugin may take one from the environment."""
    register_secrets({name: field.default for name, field in _fields(cls).items()})


def _fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def _required(cls: type) -> set[str]:
    """Return the fields of *cls* without a default."""
    fields = _fields(cls).items()
    return {name for name, field in fields if field.default is field.default_factory is dataclasses.MISSING}


def _hints(cls: type) -> dict[str, Any]:
    """Return the annotations of the options of *cls*; Any if they cannot be resolved, so that any value is accepted."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception:  # a library may annotate with what it imports for type checkers only
        hints = {}
    return {name: hints.get(name, Any) for name in _fields(cls)}


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
    if (section := _section(hint)) and value is not None:
        return from_mapping(section, value, document, keys)
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    if isinstance(value, bool) and (number := _number(hint)):  # pydantic would convert true to 1
        raise document.error(keys, f"should be {number}, got {_format_unless_secret(value, keys)}")
    configured = isinstance(hint, type) and (dataclasses.is_dataclass(hint) or typing.is_typeddict(hint))
    config = None if configured else ConfigDict(arbitrary_types_allowed=True)
    try:
        converted = TypeAdapter(hint, config=config).validate_python(value)
    except ValidationError as error:
        if _fits_placeholder(hint, value):
            return value
        inner, got, wanted = _expected(error.errors(), value)
        raise document.error((*keys, *inner), f"should be {wanted}, got {_format_unless_secret(got, keys)}") from None
    except PydanticUserError:  # an annotation that pydantic has no schema for
        return value
    if not isinstance(converted, Path):
        return converted
    document.check_local(value, keys)
    try:
        return document.locate(str(value))
    except SftError as error:
        raise document.error(keys, str(error)) from None


def _fits_placeholder(hint: Any, value: Any) -> bool:
    """Return True if *value* is a choice with its placeholder filled in: ``niter_4`` of ``niter_[number]``."""
    choices = [choice for member in _members(hint) for choice in typing.get_args(member) if isinstance(choice, str)]
    filled = [re.split(r"\[.*?\]", choice) for choice in choices]
    patterns = [r"\w+".join(map(re.escape, parts)) for parts in filled if len(parts) > 1]
    return isinstance(value, str) and any(re.fullmatch(pattern, value) for pattern in patterns)


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
"""The expected value, by the first word of the type of pydantic's error."""


def _expected(problems: Sequence[Any], value: Any) -> tuple[Keys, Any, str]:
    """Return the place of pydantic's *problems* within *value*, the value there, and what is expected.

    There is at least one problem per member of a union; the deepest ones are of the member that was meant.
    """
    places: list[tuple[Keys, Any, list[str]]] = []
    for problem in problems:
        inner: list[str | int] = []
        at = value
        for step in problem["loc"]:  # contains names of union members too
            listed = isinstance(at, (list, tuple)) and isinstance(step, int) and step < len(at)
            if listed or (isinstance(at, Mapping) and step in at):
                inner, at = [*inner, step], at[step]
        if problem["type"] in ("literal_error", "enum"):
            first, _, last = str(problem["ctx"]["expected"]).rpartition(" or ")
            wanted = [*(first.split(", ") if first else []), last]
        else:
            message = str(problem["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
            wanted = [_WANTED.get(problem["type"].partition("_")[0], message)]
        places.append((tuple(inner), at, wanted))
    deepest = max(len(inner) for inner, _, _ in places)
    keys, got, _ = next(place for place in places if len(place[0]) == deepest)
    choices = list(dict.fromkeys(choice for inner, _, wanted in places if inner == keys for choice in wanted))
    if "a number" in choices and "a whole number" in choices:
        choices.remove("a whole number")
    return keys, got, " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))


def _members(hint: Any) -> Sequence[Any]:
    """Return the members of a union; *hint* itself if it is none."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _number(hint: Any) -> str:
    """Return the kind of number that *hint* accepts; empty if none, or booleans too."""
    members = _members(hint)
    if bool in members or typing.Any in members:
        return ""
    return "a number" if float in members else "a whole number" if int in members else ""


def format_value(value: Any) -> str:
    """Return *value* for a message: ``null``, ``true``, ``'text'``."""
    return _yaml(value) if value is None or isinstance(value, bool) else repr(redact(value))


def _format_unless_secret(value: Any, keys: Keys) -> str:
    """Return *value* for a message, redacted if one of its *keys* names a secret."""
    return REDACTED if any(is_secret(str(key)) for key in keys) else format_value(value)


def _section(hint: Any) -> Any:
    """Return the dataclass in *hint*: ``Section`` or ``Section | None``."""
    members = [member for member in _members(hint) if member is not type(None)]
    return members[0] if len(members) == 1 and dataclasses.is_dataclass(members[0]) else None


class Option(NamedTuple):
    """One option, as listed for a user."""

    name: str
    type: str
    default: str
    description: str


def describe_options(cls: type) -> list[Option]:
    """Return the options of the dataclass *cls*, with the docstrings below its fields, also of its base classes."""
    texts = _docstrings(cls)
    _register_defaults(cls)
    options: list[Option] = []
    for name, field in _fields(cls).items():
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
    """Return *value* as written in YAML."""
    if value is None:
        return "null"
    if isinstance(value, str) and not value.isprintable():
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _docstrings(cls: type) -> dict[str, str]:
    """Return the string literal below each field, from the source of the classes."""
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
