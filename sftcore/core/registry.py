"""Discovery of installed plugins, and the registry of what they offer.

Nothing is imported here but hook modules, which only hold names. Distributions are walked
by hand: pluggy's own loader ends at the first exception, and skips without a word an entry
point whose name is taken.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from types import ModuleType

import pluggy

from sftcore.core import hookspecs
from sftcore.core.components import KINDS, Component
from sftcore.core.errors import PluginError, nearest
from sftcore.core.hookspecs import PROJECT, TEMPLATE_GROUP
from sftcore.core.template_file import FileTemplate

_HOOKS = {f"register_{kind}s": kind for kind in KINDS}


@dataclass(frozen=True)
class Entry:
    """One component on offer: where it comes from, and how to get it."""

    kind: str
    name: str
    distribution: str
    version: str
    target: str | type[Component] | Path

    def __str__(self) -> str:
        return f"the {self.kind} '{self.name}' of {self.distribution} {self.version}"

    @property
    def qualified(self) -> str:
        """The name that is never ambiguous."""
        return f"{self.distribution}/{self.name}"

    def problem(self) -> str | None:
        """Return what is wrong with the component as far as it can be seen without importing it, or None."""
        try:
            if isinstance(self.target, Path):
                FileTemplate(self.target).jinja()
            elif isinstance(self.target, str) and importlib.util.find_spec(self.target.partition(":")[0]) is None:
                return f"there is no module {self.target.partition(':')[0]}"
        except Exception as error:  # a malformed template, or a parent package that fails
            return _told(error)
        return None

    def component_class(self) -> type[Component]:
        """Import and return the class.

        Raises:
            PluginError: it cannot be imported, or is no component of this kind.
        """
        if isinstance(self.target, Path):
            return FileTemplate
        cls: object = self.target
        if isinstance(cls, str):
            module, _, attribute = cls.partition(":")
            try:
                cls = getattr(importlib.import_module(module), attribute)
            except (Exception, SystemExit) as error:
                raise PluginError(f"{self} cannot be loaded: {_told(error)}") from error
        if not (isinstance(cls, type) and issubclass(cls, KINDS[self.kind])):
            raise PluginError(f"{self} is {cls!r}, not a subclass of sftcore.{KINDS[self.kind].__name__}")
        if "name" in cls.__dataclass_fields__:
            raise PluginError(f"{self} has an option 'name', which in a configuration is the component's own name")
        return cls


@dataclass(frozen=True)
class Broken:
    """An entry point that could not be used, and why."""

    distribution: str
    version: str
    entry_point: str
    error: str


class Registry:
    """Every component that the installed plugins offer."""

    def __init__(self, entries: Iterable[Entry] = (), broken: Iterable[Broken] = ()) -> None:
        self.entries = sorted(
            entries, key=lambda entry: (list(KINDS).index(entry.kind), entry.name, entry.distribution)
        )
        self.broken = sorted(broken, key=lambda item: (item.distribution, item.entry_point))

    @classmethod
    def discover(cls) -> Registry:
        """Return the registry of the running environment."""
        entries: list[Entry] = []
        broken: list[Broken] = []
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(hookspecs)
        for dist, points in _entry_points():
            name, version = dist.metadata["Name"], dist.version
            for point in points:
                try:
                    if point.group == TEMPLATE_GROUP:
                        entries.extend(
                            Entry("template", path.stem, name, version, path) for path in _files(point.value)
                        )
                    else:
                        found = _components(manager, point, f"{name}:{point.name}")
                        entries.extend(Entry(kind, key, name, version, target) for kind, key, target in found)
                except (Exception, SystemExit) as error:  # a plugin may fail in any way, but not take others along
                    broken.append(Broken(name, version, f"{point.group}:{point.name}", _told(error)))
        return cls(entries, broken)

    def of_kind(self, kind: str) -> list[Entry]:
        """Return the entries of *kind*, by name."""
        return [entry for entry in self.entries if entry.kind == kind]

    def usable(self, kind: str) -> Iterator[tuple[Entry, Component]]:
        """Yield every entry of *kind* that works as it is, with a component of default options.

        Left out are those that are broken, lack a package, or cannot do without options: they have to be named.
        """
        for entry in self.of_kind(kind):
            try:
                cls = entry.component_class()
                if all(importlib.util.find_spec(package) for package in cls.requires):
                    yield entry, cls()
            except Exception:  # noqa: S112 (a plugin may fail in any way; it matters once it is selected)
                continue

    def is_ambiguous(self, entry: Entry) -> bool:
        """Tell whether another distribution offers the same name."""
        return sum(other.kind == entry.kind and other.name == entry.name for other in self.entries) > 1

    def find(self, kind: str, name: str) -> Entry:
        """Return the entry that *name*, bare or ``distribution/name``, stands for.

        Raises:
            PluginError: none or several do; the message lists the choices, and what failed to load.
        """
        found = [entry for entry in self.of_kind(kind) if name in (entry.name, entry.qualified)]
        if len(found) == 1:
            return found[0]
        if found:
            choices = ", ".join(entry.qualified for entry in found)
            raise PluginError(f"the {kind} '{name}' is ambiguous; write one of: {choices}")
        names = [entry.name for entry in self.of_kind(kind)]
        known = ", ".join(names) or "nothing"
        message = f"no installed plugin offers the {kind} '{name}'{nearest(name, names)} (installed: {known})"
        if not self.entries:
            message += "; no plugins were found at all: install the package, for example with `pip install -e .`"
        for item in self.broken:
            message += f"\n  {item.distribution} {item.version} failed to load ({item.entry_point}): {item.error}"
        raise PluginError(message)


def _entry_points() -> Iterator[tuple[Distribution, list[EntryPoint]]]:
    """Yield each distribution with its entry points in our groups; the first on ``sys.path`` wins."""
    seen: set[str] = set()
    for dist in distributions():
        try:
            points = [point for point in dist.entry_points if point.group in (PROJECT, TEMPLATE_GROUP)]
        except Exception:  # noqa: S112 (some package, of whatever kind, whose entry points cannot be read)
            continue
        if points and (name := dist.metadata["Name"]) not in seen:
            seen.add(name)
            yield dist, points


def _components(
    manager: pluggy.PluginManager, point: EntryPoint, plugin_name: str
) -> list[tuple[str, str, str | type[Component]]]:
    """Return ``(kind, name, target)`` of all that the hook module at *point* registers, or raise."""
    module = point.load()
    if not isinstance(module, ModuleType):
        raise PluginError(f"{point.value} is not a module")
    _refuse_unknown_hooks(module)
    manager.register(module, name=plugin_name)
    found: list[tuple[str, str, str | type[Component]]] = []
    for caller in manager.get_hookcallers(module) or ():
        for impl in caller.get_hookimpls():
            if impl.plugin is not module:
                continue
            offered: Mapping[str, str | type[Component]] = impl.function()  # type: ignore[assignment]
            for key, target in offered.items():
                if not isinstance(key, str) or not isinstance(target, (str, type)):
                    raise PluginError(f"{caller.name} must return a mapping of names to classes or 'module:Class'")
                found.append((_HOOKS[caller.name], key, target))
    if not found:
        raise PluginError(f"{point.value} registers nothing: mark its functions with @sftcore.hookimpl")
    return found


def _refuse_unknown_hooks(module: ModuleType) -> None:
    """Raise for a hook that this version of sftcore does not have; pluggy would ignore it."""
    for name, function in vars(module).items():
        if hasattr(function, f"{PROJECT}_impl") and name not in _HOOKS:
            raise PluginError(f"unknown hook '{name}', which may need a newer sftcore{nearest(name, _HOOKS)}")


def _files(package: str) -> list[Path]:
    """Return the template files in *package*, which is located but not executed."""
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise PluginError(f"{package} is not an importable package")
    files = [
        path for folder in folders for path in sorted(Path(folder).iterdir()) if path.suffix in (".json", ".jinja")
    ]
    if not files:
        raise PluginError(f"the package {package} holds no *.json or *.jinja (were they left out of the wheel?)")
    return files


def _told(error: BaseException) -> str:
    """Return *error* in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0].strip()
