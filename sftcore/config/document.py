"""A YAML file with the file and line of every value."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sftcore.core.errors import ConfigError, SftError
from sftcore.runtime.console import first_line
from sftcore.runtime.paths import locate
from sftcore.runtime.redaction import redact_argument, register_secret_words, register_secrets

Keys = tuple[str | int, ...]
"""The path to a value: ``("data", "train", 0, "path")``."""

MOST_VALUES, MOST_LEVELS = 100_000, 50
"""How many values a document may have, aliases expanded, and how deeply they may be nested."""


class _YamlLoader(yaml.SafeLoader):
    """Scalars of YAML 1.2; a key that appears twice in a mapping is an error.

    ``2e-4`` is a number; ``no`` (``save_strategy: no``), ``1:4`` (``nnodes: 1:4``) and
    ``2026-01-31`` are strings.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[str, int] = {}
        for key_node, _ in node.value:
            if (key := str(key_node.value)) in first:
                problem = f"the key '{key}' appears twice (first in line {first[key]})"
                raise yaml.composer.ComposerError(None, None, problem, key_node.start_mark)
            first[key] = key_node.start_mark.line + 1
        return node


_YamlLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
):
    _YamlLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first))


class Document:
    """One YAML file with overrides applied.

    Attributes:
        data: the values, as plain dicts and lists.
        folder: relative paths are looked up here too.
    """

    def __init__(self, data: dict[str, Any], name: str = "<config>", folder: Path | None = None) -> None:
        self.data = data
        self.name = name
        self.folder = folder
        self._places: dict[Keys, str] = {}  # file:line, or the command-line argument

    @classmethod
    def load(cls, path: Path) -> Document:
        """Read *path*.

        Raises:
            ConfigError: it does not exist, or is not a YAML mapping, or a key appears twice.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(f"the configuration file {path} does not exist; name one with --config PATH") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from None
        document = cls({}, str(path), path.resolve().parent)
        try:
            data = document._parse(text)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem or error.context}") from None
        except RecursionError:
            raise ConfigError(f"{path}: not valid YAML: nested too deeply") from None
        except (yaml.YAMLError, ValueError, AttributeError) as error:  # the last two come from tags such as !!int
            raise ConfigError(f"{path}: not valid YAML: {first_line(error)}") from None
        if not isinstance(data, dict):
            raise ConfigError(f"{path}:1: must be a mapping of keys to values")
        register_secrets(data)
        document.data = data
        return document

    def _parse(self, text: str) -> Any:
        """Return the value of *text*, and record the line of everything in it."""
        try:
            loader = _YamlLoader(text)
            node = loader.get_single_node()
            return self._construct(loader, node, (), ()) if node else {}
        except Exception:
            register_secret_words(text)  # the message may quote one
            raise

    def _construct(self, loader: _YamlLoader, node: yaml.Node, keys: Keys, above: tuple[int, ...]) -> Any:
        """Return the value of *node*, and record the line of everything in it."""
        place = f"{self.name}:{node.start_mark.line + 1}"
        self._places.setdefault(keys, place)
        if id(node) in above:
            raise ConfigError(f"{place}: an alias that contains itself")
        if len(self._places) > MOST_VALUES or len(above) > MOST_LEVELS:
            raise ConfigError(f"{place}: more than {MOST_VALUES:,} values, or {MOST_LEVELS} levels of them")
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            loader.flatten_mapping(node)  # puts merged keys first, so that the mapping's own keys win
            values: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key, place = loader.construct_object(key_node), f"{self.name}:{key_node.start_mark.line + 1}"
                if not isinstance(key, str):
                    raise ConfigError(f"{place}: the key {key!r} must be a string; put it in quotes")
                self._places[*keys, key] = place
                values[key] = self._construct(loader, value_node, (*keys, key), above)
            return values
        if isinstance(node, yaml.SequenceNode):
            return [self._construct(loader, item, (*keys, index), above) for index, item in enumerate(node.value)]
        return loader.construct_object(node, deep=True)

    def override(self, assignment: str) -> None:
        """Apply ``KEY=VALUE`` from the command line: a dotted key and a YAML value.

        Raises:
            ConfigError: it has another form, or a part of the key is of a value without keys.
        """
        key, equals, text = assignment.partition("=")
        shown = redact_argument(assignment)
        if not equals or not key or key.startswith("-"):
            raise ConfigError(f"'{shown}': expected KEY=VALUE, for example training_args.max_steps=20")
        try:
            value = yaml.load(text, Loader=_YamlLoader)  # noqa: S506 (a SafeLoader)
        except (yaml.YAMLError, ValueError, AttributeError, RecursionError):
            raise ConfigError(f"'{shown}': the value is not valid YAML") from None
        self.set(tuple(int(part) if part.isdecimal() else part for part in key.split(".")), value, f"'{shown}'")

    def set(self, keys: Keys, value: Any, place: str) -> None:
        """Set the value at *keys*; *place* is its place in later messages."""
        data = copy.deepcopy(self.data)
        at: Any = data
        created = [keys]
        for depth, key in enumerate(keys):
            name = dotted(keys[:depth])
            if isinstance(at, list):
                if not isinstance(key, int) or key >= len(at):
                    raise ConfigError(f"{place}: {name} is a list of {len(at)}; write {name}.0 for its first item")
            elif not isinstance(at, dict):
                raise ConfigError(f"{place}: {name} has no keys")
            elif isinstance(key, int):
                raise ConfigError(f"{place}: {name} is not a list; write {name} without a number")
            if depth == len(keys) - 1:
                at[key] = value
                break
            below = at.get(key) if isinstance(at, dict) else at[int(key)]
            if below is None:
                created += [] if key in at else [keys[: depth + 1]]
                below = {}
            elif isinstance(below, str):  # the short form of a source or a component
                source = keys[0] == "data" and (isinstance(key, int) or key in ("train", "eval"))
                below = {"path" if source else "name": below}
            at[key] = below
            at = below
        self.data = data
        places = {way: text for way, text in self._places.items() if way[: len(keys)] != keys}
        self._places = places | dict.fromkeys(created, place)

    def where(self, keys: Keys) -> str:
        """Return the place of the value at *keys*: ``file:line``, or the command-line argument that set it."""
        above = (keys[:end] for end in range(len(keys), -1, -1))
        return next((self._places[way] for way in above if way in self._places), self.name)

    def error(self, keys: Keys, problem: str) -> ConfigError:
        """Return an error with the place and the name of *keys*, and the *problem*."""
        name = dotted(keys)
        return ConfigError(f"{self.where(keys)}: {name + ': ' if name else ''}{problem}")

    def collect(self) -> Problems:
        """Return a context manager that collects errors, to be raised together in the order of this document."""
        return Problems(list(dict.fromkeys(self._places.values())))

    def locate(self, text: str) -> Path:
        """Return the path of *text*, a value of this document; see :func:`sftcore.runtime.paths.locate`."""
        return locate(text, self.folder)

    def check_local(self, text: object, keys: Keys) -> None:
        """Raise ConfigError if *text*, the value at *keys*, is a URL, or a path with variables of the shell."""
        if Path(str(text)).exists():
            return
        if re.match(r"[a-z][a-z0-9+.-]*://", str(text)):
            problem = "a URL cannot be read; name a local file or folder, or the id of a hub repository"
            raise self.error(keys, f"'{text}': {problem}")
        if re.search(r"\$\{?\w", str(text)):
            problem = (
                f"variables are not expanded here; write {dotted(keys)}=... on the command line, where the shell does"
            )
            raise self.error(keys, f"'{text}': {problem}")


class Problems:
    """The errors of several parts of a configuration; each ``with`` block may add some, and ends there."""

    def __init__(self, places: Sequence[str]) -> None:
        self._places = places
        self._errors: list[SftError] = []

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, SftError):
            self._errors += error.errors if isinstance(error, _SeveralError) else [error]
        return isinstance(error, SftError)

    def raise_all(self) -> None:
        """Raise one error with all problems, if there are any."""
        errors = sorted({str(error): error for error in self._errors}.values(), key=self._position)
        if errors:
            raise errors[0] if len(errors) == 1 else _SeveralError(errors)

    def _position(self, error: SftError) -> int:
        places = enumerate(self._places)
        return next((at for at, place in places if str(error).startswith(f"{place}: ")), len(self._places))


class _SeveralError(ConfigError):
    def __init__(self, errors: Sequence[SftError]) -> None:
        super().__init__("\n  ".join([f"the configuration has {len(errors)} errors:", *map(str, errors)]))
        self.errors = errors


def dotted(keys: Sequence[str | int]) -> str:
    """Return *keys* as written by a user: ``data.train.0.path``."""
    return ".".join(map(str, keys))
