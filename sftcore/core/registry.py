"""Discovery of installed plugins, and the registry of their components.

Only hook modules are imported here; the module of a component is imported when it is selected. Distributions are read
directly, because pluggy's own loader stops at the first exception and ignores an entry point whose name is taken.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pluggy

from sftcore.core import hookspecs
from sftcore.core.components import KINDS, Component
from sftcore.core.errors import PluginError, nearest
from sftcore.core.hookspecs import PROJECT, TEMPLATE_GROUP, BackendSpec, FormatSpec
from sftcore.core.template_file import FileTemplate

_HOOKS = {f"register_{kind}s": kind for kind in KINDS}
_SPECS: dict[str, type[BackendSpec | FormatSpec]] = {"format": FormatSpec, "backend": BackendSpec}

Spec = TypeVar("Spec", FormatSpec, BackendSpec)


@dataclass(frozen=True)
class Entry:
    """One installed component.

    Attributes:
        offer: what its hook returned for the name, or the path of a template file.
    """

    kind: str
    name: str
    distribution: str
    version: str
    offer: str | type[Component] | Path | FormatSpec | BackendSpec

    def __str__(self) -> str:
        return f"the {self.kind} '{self.name}' of {self.distribution} {self.version}"

    @property
    def qualified(self) -> str:
        """The name that is never ambiguous: ``distribution/name``."""
        return f"{self.distribution}/{self.name}"

    @property
    def target(self) -> str | type[Component] | Path:
        """The class, ``"module:Class"``, or the path of a template file."""
        return self.offer.target if isinstance(self.offer, (FormatSpec, BackendSpec)) else self.offer

    def problem(self) -> str | None:
        """The reason why the component cannot be loaded, as far as it is known without an import, or None."""
        try:
            if isinstance(self.target, Path):
                FileTemplate(self.target).jinja()
            elif isinstance(self.target, str) and find_module(module := self.target.partition(":")[0]) is None:
                return f"there is no module {module}"
        except Exception as error:  # a malformed template
            return _one_line(error)
        return None

    def component_class(self) -> type[Component]:
        """Import and return the class.

        Raises:
            PluginError: it cannot be imported, or is not a component of this kind.
        """
        if isinstance(self.target, Path):
            return FileTemplate
        cls: object = self.target
        if isinstance(cls, str):
            module, _, attribute = cls.partition(":")
            try:
                cls = getattr(importlib.import_module(module), attribute)
            except (Exception, SystemExit) as error:
                raise PluginError(f"{self} cannot be loaded: {_one_line(error)}") from error
        if not (isinstance(cls, type) and issubclass(cls, KINDS[self.kind])):
            raise PluginError(f"{self} is {cls!r}, not a subclass of sftcore.{KINDS[self.kind].__name__}")
        own = [str(hint) for hint in vars(cls).get("__annotations__", {}).values()]
        if "__dataclass_fields__" not in vars(cls) and not all("ClassVar" in hint for hint in own):
            raise PluginError(f"{self} declares options, but is not a dataclass: put @dataclass above {cls.__name__}")
        if "name" in cls.__dataclass_fields__:
            raise PluginError(f"{self} has an option 'name', which in a configuration is the component's own name")
        return cls


@dataclass(frozen=True)
class Broken:
    """An entry point that failed to load, and why."""

    distribution: str
    version: str
    entry_point: str
    error: str
    traceback: str = ""


class Registry:
    """All components of the installed plugins, and the plugins that failed to load."""

    def __init__(self, entries: Iterable[Entry] = (), broken: Iterable[Broken] = ()) -> None:
        self.entries = sorted(
            entries, key=lambda entry: (list(KINDS).index(entry.kind), entry.name, entry.distribution)
        )
        self.broken = sorted(broken, key=lambda item: (item.distribution, item.entry_point))

    @classmethod
    def discover(cls) -> Registry:
        """Return the registry of this Python environment."""
        entries: list[Entry] = []
        broken: list[Broken] = []
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(hookspecs)
        for dist, points in _entry_points():
            name, version = dist.metadata["Name"], dist.version
            for point in points:
                try:
                    if point.group == TEMPLATE_GROUP:
                        files = _template_files(point.value)
                        entries.extend(Entry("template", path.stem, name, version, path) for path in files)
                    else:
                        for entry in _components(manager, point, name, version):
                            entries.append(entry)  # so that those before an error are kept
                except (Exception, SystemExit) as error:  # a broken plugin must not affect the others
                    trace = "".join(traceback.format_exception(error))
                    broken.append(Broken(name, version, f"{point.group}:{point.name}", _one_line(error), trace))
        return cls(entries, broken)

    def of_kind(self, kind: str) -> list[Entry]:
        """Return the entries of *kind*, sorted by name."""
        return [entry for entry in self.entries if entry.kind == kind]

    def specs(self, spec_class: type[Spec]) -> Iterator[tuple[Entry, Spec]]:
        """Yield the entries that have a spec of *spec_class*, with it; not those whose module is missing."""
        for entry in self.entries:
            if isinstance(entry.offer, spec_class) and entry.problem() is None:
                yield entry, entry.offer

    def is_ambiguous(self, entry: Entry) -> bool:
        """Whether another distribution has a component of the same kind and name."""
        return sum(other.kind == entry.kind and other.name == entry.name for other in self.entries) > 1

    def find(self, kind: str, name: str) -> Entry:
        """Return the entry with this *name* or qualified name.

        Raises:
            PluginError: there is none, or several; the message lists the choices and what failed to load.
        """
        matches = [entry for entry in self.of_kind(kind) if name in (entry.name, entry.qualified)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            choices = ", ".join(entry.qualified for entry in matches)
            raise PluginError(f"the {kind} '{name}' is ambiguous; write one of: {choices}")
        names = [entry.name for entry in self.of_kind(kind)]
        known = ", ".join(names) or "nothing"
        message = f"no installed plugin offers the {kind} '{name}'{nearest(name, names)} (installed: {known})"
        if not self.entries:
            message += "; no plugin is installed: install sftcore itself, for example with `pip install -e .`"
        for item in self.broken:
            message += f"\n  {item.distribution} {item.version} failed to load ({item.entry_point}): {item.error}"
        raise PluginError(message)


def find_module(name: str) -> ModuleSpec | None:
    """Return the spec of the module *name*, or None if it does not exist; nothing is imported, not even a parent."""
    spec: ModuleSpec | None = None
    path: Any = None
    for way in itertools.accumulate(name.split("."), "{}.{}".format):
        if (spec and not path) or not way or way.endswith("."):  # not a package, not a name
            return None
        spec = next(filter(None, (finder.find_spec(way, path) for finder in sys.meta_path)), None)
        if spec is None:
            return None
        path = getattr(sys.modules.get(way), "__path__", spec.submodule_search_locations)
    return spec


def _entry_points() -> Iterator[tuple[Distribution, list[EntryPoint]]]:
    """Yield each distribution with its entry points in our groups; the first on ``sys.path`` wins."""
    seen: set[str] = set()
    for dist in distributions():
        try:
            points = [point for point in dist.entry_points if point.group in (PROJECT, TEMPLATE_GROUP)]
        except Exception:  # noqa: S112 (the metadata of any installed package may be invalid)
            continue
        if points and (name := dist.metadata["Name"]) not in seen:
            seen.add(name)
            yield dist, points


def _components(manager: pluggy.PluginManager, point: EntryPoint, distribution: str, version: str) -> Iterator[Entry]:
    """Yield the components that the hook module at *point* registers, and raise any exception."""
    module = point.load()
    if not isinstance(module, ModuleType):
        raise PluginError(f"{point.value} is not a module")
    manager.register(module, name=f"{distribution}:{point.name}")
    callers = sorted(manager.get_hookcallers(module) or (), key=lambda caller: caller.name not in _HOOKS)
    for caller in callers:  # unknown ones, which pluggy ignores, come last
        if caller.name not in _HOOKS:
            hint = nearest(caller.name, _HOOKS)
            raise PluginError(f"unknown hook '{caller.name}', which may need a newer sftcore{hint}")
        kind = _HOOKS[caller.name]
        allowed = (str, type, _SPECS.get(kind, str))
        for key, offer in getattr(module, caller.name)().items():
            if not isinstance(key, str) or not isinstance(offer, allowed):
                or_spec = f", or of {_SPECS[kind].__name__}" if kind in _SPECS else ""
                raise PluginError(f"{caller.name} must return a mapping of names to classes or 'module:Class'{or_spec}")
            yield Entry(kind, key, distribution, version, offer)
    if not callers:
        raise PluginError(f"{point.value} registers nothing: mark its functions with @sftcore.hookimpl")


def _template_files(package: str) -> list[Path]:
    """Return the template files in *package*, which is located but not imported."""
    spec = find_module(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise PluginError(f"{package} is not an importable package")
    paths = (path for folder in folders for path in sorted(Path(folder).iterdir()))
    files = [path for path in paths if path.suffix in (".json", ".jinja")]
    if not files:
        raise PluginError(f"the package {package} has no *.json or *.jinja files (are they missing from the wheel?)")
    return files


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0].strip()
