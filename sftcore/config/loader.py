"""From a document to a checked :class:`Config` with the components that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sftcore.config.document import Document, Keys, dotted
from sftcore.config.fields import check_options, format_value, from_mapping, option_names, to_mapping
from sftcore.config.schema import AUTO, MISPLACED_KEYS, Config, DataConfig, EvalFraction, SourceConfig
from sftcore.core.components import Backend, Component, Format, Method, Tracker, variable_problem
from sftcore.core.errors import ConfigError, PluginError
from sftcore.core.hookspecs import BackendSpec
from sftcore.core.registry import Entry, Registry, find_module
from sftcore.core.template_file import SUFFIXES, FileTemplate

_MAY_BE_EMPTY = ("ask", "non_finite", "training_args", "template_path", "template_kwargs")
"""Keys that may have no value, as when every line of the section is commented out."""

_PATHS = (("model", "name_or_path"), ("training_args", "output_dir"), ("training_args", "resume_from_checkpoint"))
"""Keys of paths, beside those of sources and of options of type `Path`."""


@dataclass
class LoadedConfig:
    """A checked configuration, and where it came from.

    Attributes:
        config: the values.
        document: the YAML with overrides applied; it knows the line of every key.
        selected: the registry entry of each component of the run, by the key that names it.
    """

    config: Config
    document: Document
    selected: dict[str, Entry]

    def resolved(self) -> dict[str, Any]:
        """Return the configuration with all defaults, as one could write it in YAML."""
        names = {key: entry.qualified for key, entry in self.selected.items()}
        values: dict[str, Any] = to_mapping(self.config, names)
        if isinstance(self.config.template, FileTemplate):
            values["template"] = names.get("template", str(self.config.template.path))
        if "backend" not in names:
            values["backend"] = AUTO
        return values


def load_config(document: Document, registry: Registry, environ: Mapping[str, str]) -> LoadedConfig:
    """Check *document*, and import and create the components that it names, and no others.

    Raises:
        ConfigError, PluginError: with the place in the file and what to do.
    """
    return _Loader(document, registry, {}).load(environ)


def load_trackers(document: Document, registry: Registry) -> list[tuple[str, Tracker]]:
    """Return name and instance of each tracker in the key ``trackers`` of *document*; raise as :func:`load_config`."""
    loader = _Loader(document, registry, {})
    trackers = cast("list[Tracker]", loader.trackers(document.data.get("trackers")))
    return [(loader.selected[f"trackers.{index}"].name, tracker) for index, tracker in enumerate(trackers)]


def load_format(name: str, source: Keys, loaded: LoadedConfig, registry: Registry) -> Format:
    """Return the format *name* with default options, and note in *loaded* that the source at the keys *source* uses it.

    It raises what :func:`load_config` raises.
    """
    loader = _Loader(loaded.document, registry, loaded.selected)
    return cast("Format", loader.component("format", name, (*source, "format")))


def load_template(key: str, document: Document) -> FileTemplate:
    """Return the template in the file at *key*, ``template`` or ``template_path``; raise as :func:`load_config`."""
    try:
        path = document.locate(str(document.data[key]))
    except ConfigError as error:
        raise document.error((key,), str(error)) from None
    if not path.is_file():
        raise document.error((key,), f"the file {path} does not exist")
    return FileTemplate(path)


def _misplaced_keys(raw: Mapping[str, Any], method: type) -> Mapping[str, str]:
    """Return the full names of keys that may stand at the top level by mistake."""
    if raw.keys() <= option_names(Config):
        return {}
    names = {name: f"training_args.{name}" for name in option_names("transformers:TrainingArguments")}
    if issubclass(method, Method):
        names |= {name: f"method.{name}" for name in option_names(method)}
    return names | MISPLACED_KEYS


def _section(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return section if isinstance(section := raw.get(name), Mapping) else {}


class _Loader:
    """Creates components by name, and notes in *selected* which entries were used."""

    def __init__(self, document: Document, registry: Registry, selected: dict[str, Entry]) -> None:
        self.document = document
        self.registry = registry
        self.selected = selected

    def load(self, environ: Mapping[str, str]) -> LoadedConfig:
        raw = {key: value for key, value in self.document.data.items() if value is not None or key not in _MAY_BE_EMPTY}
        ready: dict[str, Any] = dict.fromkeys(raw.keys() & {"data", "method", "template", "trackers"})
        problems = self.document.collect()
        if "data" in raw:
            with problems:
                ready["data"] = self._data(raw["data"])
        for kind in ("method", "template"):
            if kind in raw and (kind == "method" or raw[kind] is not None):
                with problems:
                    is_file = kind == "template" and Path(str(raw[kind])).suffix in SUFFIXES
                    ready[kind] = (
                        load_template(kind, self.document) if is_file else self.component(kind, raw[kind], (kind,))
                    )
        if isinstance(raw.get("template_path"), str):
            with problems:
                load_template("template_path", self.document)
        with problems:
            ready["trackers"] = self.trackers(raw.get("trackers"))
        ready["backend"] = None
        with problems:
            ready["backend"] = self._backend(raw.get("backend", AUTO), environ)
        with problems:
            misplaced = _misplaced_keys(raw, type(ready.get("method")))
            config = from_mapping(Config, raw, self.document, (), ready=ready, misplaced=misplaced)
        for keys, problem in self._of_others(raw):
            with problems:
                raise self.document.error(keys, problem)
        for section, key in _PATHS:
            with problems:
                self.document.check_local(_section(raw, section).get(key, ""), (section, key))
        problems.raise_all()
        return LoadedConfig(config, self.document, self.selected)

    def _of_others(self, raw: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
        """Yield the keys of libraries' sections that belong to a backend or to sftcore, and why they cannot be set."""
        for entry, spec in self.registry.specs(BackendSpec):
            for key in _section(raw, "training_args").keys() & {*spec.training_args}:
                yield ("training_args", key), f"is set by the backend '{entry.name}': select it under 'backend'"
        for name in _section(raw, "template_kwargs"):
            if problem := variable_problem(name):
                yield ("template_kwargs", name), problem

    def component(self, kind: str, reference: object, keys: Keys, slot: Keys | None = None) -> Component:
        """Return the component of *reference*: a name or ``{name: ..., options}``; *slot* is its key in *selected*."""
        reference = {"name": reference} if isinstance(reference, str) else reference
        if not isinstance(reference, Mapping):
            problem = f"must be the name of a {kind}, or a mapping with 'name' and options, not "
            raise self.document.error(keys, problem + format_value(reference))
        if not isinstance(name := reference.get("name"), str):
            raise self.document.error(keys, f"which {kind}? add its 'name' to the options")
        options = {key: value for key, value in reference.items() if key != "name"}
        try:
            entry = self.registry.find(kind, name)
            cls = entry.component_class()
        except PluginError as error:
            raise PluginError(str(self.document.error(keys, str(error)))) from None
        missing = [package for package in cls.requires if find_module(package) is None]
        if missing:
            problem = f"the {kind} '{name}' needs packages that are not installed: pip install {' '.join(missing)}"
            raise self.document.error(keys, problem)
        if isinstance(entry.target, Path):
            for key in options:
                raise self.document.error((*keys, key), "unknown key; this template is a file and has no options")
            component: Component = FileTemplate(entry.target)
        else:
            component = from_mapping(cls, options, self.document, keys)
        self.selected[dotted(slot or keys)] = entry
        return component

    def _data(self, raw: object) -> DataConfig:
        if not isinstance(raw, Mapping):
            raise self.document.error(("data",), "must be a mapping with 'train'")
        ready: dict[str, Any] = dict.fromkeys(raw.keys() & {"train", "eval"})
        problems = self.document.collect()
        if "train" in raw:
            with problems:
                ready["train"] = self._sources(raw["train"], ("data", "train"))
        evaluation = raw.get("eval")
        with problems:
            if isinstance(evaluation, Mapping) and "path" not in evaluation:
                ready["eval"] = from_mapping(EvalFraction, evaluation, self.document, ("data", "eval"))
            elif evaluation is not None:
                ready["eval"] = self._sources(evaluation, ("data", "eval"))
        with problems:
            check_options(DataConfig, raw, self.document, ("data",), ready=ready)
        problems.raise_all()
        return from_mapping(DataConfig, raw, self.document, ("data",), ready=ready)

    def _sources(self, raw: object, keys: Keys) -> list[SourceConfig]:
        if raw == []:
            raise self.document.error(keys, "the list of sources is empty")
        items = [(item, (*keys, at)) for at, item in enumerate(raw)] if isinstance(raw, list) else [(raw, keys)]
        sources: list[SourceConfig] = []
        problems = self.document.collect()
        for at, (item, place) in enumerate(items):
            with problems:
                sources.append(self._source(item, place, (*keys, at)))
        problems.raise_all()
        return sources

    def _source(self, raw: object, keys: Keys, slot: Keys) -> SourceConfig:
        if not isinstance(raw, (str, Mapping)):
            raise self.document.error(keys, f"must be a path or a mapping, not {format_value(raw)}")
        path = ("path",) if isinstance(raw, Mapping) else ()
        self.document.check_local(raw.get("path", "") if isinstance(raw, Mapping) else raw, (*keys, *path))
        source = from_mapping(SourceConfig, {"path": raw} if isinstance(raw, str) else raw, self.document, keys)
        if source.format != AUTO:
            source.format = self.component("format", source.format, (*keys, "format"), (*slot, "format"))
        return source

    def trackers(self, raw: object) -> list[Component]:
        """Return the trackers of *raw*: one reference, a list of them, or None."""
        references = raw if isinstance(raw, list) else [] if raw is None else [raw]
        trackers: list[Component] = []
        problems = self.document.collect()
        for index, reference in enumerate(references):
            with problems:
                trackers.append(self.component("tracker", reference, ("trackers", index)))
        problems.raise_all()
        return trackers

    def _backend(self, reference: object, environ: Mapping[str, str]) -> Component:
        if reference != AUTO:
            return self.component("backend", reference, ("backend",))
        specs = self.registry.specs(BackendSpec)
        matches = [entry.qualified for entry, spec in specs if spec.has_launched(environ)]
        if len(matches) > 1:
            problem = f"several backends recognise the launcher of this process ({', '.join(matches)}); name one"
            raise self.document.error(("backend",), problem)
        return self.component("backend", matches[0], ("backend",)) if matches else Backend()
