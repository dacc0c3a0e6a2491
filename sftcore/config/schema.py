"""The configuration: every key a YAML file may have, and its way to a checked :class:`Config`."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, cast

from sftcore.config.document import Document, Keys, dotted
from sftcore.config.fields import fill, shown
from sftcore.core.components import FURTHER, RESERVED, Backend, Component, Method, Template, Tracker
from sftcore.core.errors import FieldError, PluginError
from sftcore.core.labelling_policy import Context, Policy, Reasoning, TrainOn, Truncation
from sftcore.core.registry import Entry, Registry
from sftcore.core.template_file import FileTemplate

AUTO = "auto"

SHARES_MISS = 0.001
"""By how much the shares of all sources may miss 1, so that thirds can be written."""


@dataclass
class ModelConfig:
    """The base model."""

    name_or_path: str
    """A hub id, a folder, a GGUF file, or `package:NAME/file` for one inside an installed Python package."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; `auto` keeps the checkpoint's own."""
    attn_implementation: str = "auto"
    """Attention kernel as transformers names it: `sdpa`, `eager`, `flash_attention_2`, ...; `auto` lets it choose."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. It can do anything you can: read it first."""


def _check_train_on(train_on: TrainOn | None) -> None:
    if train_on == []:
        raise FieldError("train_on", "names no role, so nothing would be trained")


@dataclass
class SourceConfig:
    """One source of rows."""

    path: str
    """A file, folder, glob, or the id of a hub data set. Files end in `.jsonl`, `.json`, `.csv`, which may be
    compressed (`.gz`, `.bz2`, `.xz`, `.zst`), or `.parquet`."""
    format: Any = AUTO
    """A format's name, or `{name: ..., options}`; `auto` decides by the first rows."""
    split: str = "train"
    """Which split of a hub data set; a file has none."""
    subset: str | None = None
    """Which subset (configuration) of a hub data set that has several."""
    columns: dict[str, str] = field(default_factory=dict)
    """New names for columns of the rows, before the format reads them: `{prompt: input, completion: output}`."""
    limit: int | None = None
    """Read the first rows only, so many; null: all."""
    repeat: float = 1.0
    """How often each row stands in an epoch: 3 is three times; 0.5 is half the rows, chosen by content."""
    share: float | None = None
    """What part of the rows of an epoch comes from this source, above 0 and up to 1; null: what is there."""
    weight: float = 1.0
    """What a trained token of this source weighs in the loss; multiplies a message's own weight."""
    train_on: TrainOn | None = None
    """As in `data`, for this source; null: what `data` says."""
    train_on_stop: bool | None = None
    """As in `data`, for this source; null: what `data` says."""
    reasoning: Reasoning | None = None
    """As in `data`, for this source; null: what `data` says."""
    context: Context | None = None
    """As in `data`, for this source; null: what `data` says."""
    truncation: Truncation | None = None
    """As in `data`, for this source; null: what `data` says."""

    def __post_init__(self) -> None:
        _check_train_on(self.train_on)
        if not 0 <= self.weight < math.inf:
            raise FieldError("weight", f"must be a number of at least 0, not {self.weight:g}")
        if self.limit is not None and self.limit < 1:
            raise FieldError("limit", f"must be at least 1, not {self.limit}")
        if not 0 < self.repeat < math.inf:
            raise FieldError("repeat", f"must be a number above 0, not {self.repeat:g}")
        if self.share is not None and not 0 < self.share <= 1:
            raise FieldError("share", f"must be above 0 and at most 1, not {self.share:g}; `weight` is of the loss")
        if self.share is not None and self.repeat != 1:
            raise FieldError("share", "says how often a row is taken, and so does repeat; keep one of them")
        for name in self.columns.values():
            if len(given := [column for column, target in self.columns.items() if target == name]) > 1:
                raise FieldError("columns", f"would make {name!r} of {' and '.join(map(repr, given))}")


@dataclass
class EvalFraction:
    """An evaluation set that is held back from the training rows."""

    fraction: float
    """Share of the rows, between 0 and 1; chosen by content, so equal rows stay on one side."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise FieldError("fraction", f"must be between 0 and 1, not {self.fraction:g}")


@dataclass
class DataConfig:
    """What is trained and evaluated on."""

    train: list[SourceConfig]
    """One source or a list of them; a bare string is a path."""
    eval: list[SourceConfig] | EvalFraction | None = None
    """Sources as for `train`, or `{fraction: 0.05}` to hold rows back; null for no evaluation."""
    max_length: int = 2048
    """Longest example in tokens; `truncation` says what becomes of longer ones."""
    packing: bool = False
    """Join short conversations into rows of `max_length`, each seeing only itself."""
    max_bad_rows: int | float = 0
    """How many rows may be bad: a number, or a share between 0 and 1. They are left out, and kept in
    `quarantine.jsonl`; one more ends the run."""
    workers: int | None = None
    """Processes that prepare the data; null: one for each processor core."""
    streaming: bool = False
    """Read, label and train the rows of `train` as they come, and keep nothing of them; for more data than disk."""
    shuffle_buffer: int = 10_000
    """Of a stream: so many rows are shuffled, or packed, at a time."""
    train_on: TrainOn = "assistant"
    """What is trained: `assistant` turns, the `last_turn` of them, `all` tokens, or the texts of a list of roles."""
    train_on_stop: bool = True
    """Train the stop token that ends an assistant turn; without it the model does not learn to end one."""
    reasoning: Reasoning = "train"
    """Whether the reasoning in a trained assistant turn is trained, or masked."""
    context: Context = "served"
    """`served`: each turn is trained as it is served, if need be in an example of its own; `strict`: also after
    the very generation prompt; `whole`: one example per row, whatever came before a turn."""
    truncation: Truncation = "drop_turns"
    """What becomes of an example longer than `max_length`: drop its oldest exchanges, drop it, split it into several,
    cut its end, or end the run."""

    def __post_init__(self) -> None:
        _check_train_on(self.train_on)
        if self.max_length < 1:
            raise FieldError("max_length", f"must be at least 1, not {self.max_length}")
        if self.workers is not None and self.workers < 1:
            raise FieldError("workers", f"must be at least 1, not {self.workers}")
        if self.shuffle_buffer < 1:
            raise FieldError("shuffle_buffer", f"must be at least 1, not {self.shuffle_buffer}")
        if self.streaming and isinstance(self.eval, EvalFraction):
            raise FieldError(
                "eval",
                "a share of a stream cannot be held back, because it would have to be read to its end before the first "
                "step; put rows aside in a file of their own, and name that here: none of them is trained",
            )
        if not (0 <= self.max_bad_rows < 1 or (self.max_bad_rows >= 1 and float(self.max_bad_rows).is_integer())):
            problem = f"must be a whole number of rows, or a share between 0 and 1, not {self.max_bad_rows:g}"
            raise FieldError("max_bad_rows", problem)
        if isinstance(self.eval, list) and any(source.share is not None for source in self.eval):
            raise FieldError("eval", "a source has a share, which is of rows that are trained; take limit or repeat")
        shares = [source.share for source in self.train if source.share is not None]
        if shares and len(shares) == len(self.train) and abs(sum(shares) - 1) > SHARES_MISS:
            raise FieldError("train", f"all sources have a share, and together these are {sum(shares):g}, not 1")
        if len(shares) < len(self.train) and sum(shares) >= 1:
            raise FieldError("train", f"the shares are {sum(shares):g}, which leaves nothing to sources without one")

    @property
    def sources(self) -> list[SourceConfig]:
        """All sources, those to train first."""
        return [*self.train, *(self.eval if isinstance(self.eval, list) else ())]

    def policy(self, source: SourceConfig) -> Policy:
        """Return what holds for the rows of *source*: what it says itself, and for the rest what `data` says."""
        own = {key: getattr(source, key) for key in _PER_SOURCE}
        return Policy(
            max_length=self.max_length,
            weight=source.weight,
            **{key: getattr(self, key) if value is None else value for key, value in own.items()},
        )


_PER_SOURCE = ("train_on", "train_on_stop", "reasoning", "context", "truncation")
"""Keys of `data` that a source may set for itself."""


@dataclass
class AskConfig:
    """Questions put to the model before and after training."""

    questions: list[str] = field(default_factory=list)
    """Each is asked alone, as a user's first message; the answers are shown and kept in run.json."""
    max_new_tokens: int = 48
    """Length of an answer, in tokens."""


@dataclass
class NonFiniteConfig:
    """What becomes of steps whose loss or gradient is not finite."""

    action: Literal["stop", "skip", "continue"] = "stop"
    """`stop`: leave them out, and end the run when there are `patience` in a row; `skip`: leave them out, however many;
    `continue`: take them, and do not look."""
    patience: int = 3
    """How many in a row end the run."""

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise FieldError("patience", f"must be at least 1, not {self.patience}")


@dataclass
class Config:
    """A whole, checked configuration; its fields are the top-level keys of the YAML file."""

    model: ModelConfig
    """The base model."""
    data: DataConfig
    """What is trained and evaluated on."""
    method: Method
    """Which weights are trained: a method's name, or `{name: ..., options}`."""
    template: Template | None = None
    """A template's name; it always wins. null: the tokenizer's own, else `template_path`."""
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further variables of the chat template, such as `enable_thinking: false`; the same as you will serve with."""
    template_path: Path | None = None
    """A template file (.json or .jinja), used where the tokenizer has no template of its own."""
    trackers: list[Tracker] = field(default_factory=list)
    """Names of experiment trackers, or `{name: ..., options}`."""
    backend: Backend = field(default_factory=Backend)
    """How processes are started; `auto` goes by the launcher that started this one, if any."""
    seed: int = 42
    """Seed of everything random: new weights, the order of rows, dropout."""
    ask: AskConfig = field(default_factory=AskConfig)
    """Questions put to the model before and after training."""
    max_hours: float | None = None
    """Stop after so many hours as if asked to: save, and end with exit code 75. null: no limit."""
    rank_timeout: float = 300.0
    """Seconds without a sign of life after which a rank is given up, and the run ends; that no rank comes further is
    borne for `training_args.ddp_timeout`."""
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)
    """What becomes of steps whose loss or gradient is not finite."""
    training_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of transformers.TrainingArguments, under their own names."""

    def __post_init__(self) -> None:
        if self.max_hours is not None and not 0 < self.max_hours < math.inf:
            raise FieldError("max_hours", f"must be a number above 0, not {self.max_hours:g}")
        if not 0 < self.rank_timeout < math.inf:
            raise FieldError("rank_timeout", f"must be a number above 0, not {self.rank_timeout:g}")


ELSEWHERE = {
    item.name: f"{section}.{item.name}"
    for section, cls in (("model", ModelConfig), ("data", DataConfig), ("ask", AskConfig))
    for item in fields(cls)
}
"""Where the keys of the sections belong, for those who write them in another place."""


@dataclass
class Loaded:
    """A configuration with where it came from.

    Attributes:
        config: what was asked for, checked.
        document: the YAML as written, overrides applied; knows the line of every key.
        selected: the plugin entries that the run uses, by the key that names them.
    """

    config: Config
    document: Document
    selected: dict[str, Entry]

    def resolved(self) -> dict[str, Any]:
        """Return the configuration with every default filled in, as one could write it in YAML."""
        values: dict[str, Any] = self._plain(self.config, ())
        return values

    def _plain(self, value: Any, keys: Keys) -> Any:
        entry = self.selected.get(dotted(keys))
        if isinstance(value, FileTemplate) and entry:
            return entry.qualified
        if isinstance(value, Component) and not entry:
            return AUTO
        if is_dataclass(value):
            inner = {"name": entry.qualified} if entry else {}
            for item in fields(value):
                plain = self._plain(getattr(value, item.name), (*keys, item.name))
                inner.update(plain if FURTHER in item.metadata else {item.name: plain})
            return inner
        if isinstance(value, Mapping):
            return {key: self._plain(item, (*keys, key)) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._plain(item, (*keys, index)) for index, item in enumerate(value)]
        return str(value) if isinstance(value, Path) else value


def load(document: Document, registry: Registry, environ: Mapping[str, str]) -> Loaded:
    """Check *document* and resolve every component that it names.

    Raises:
        ConfigError, PluginError: with the place in the file and what to do.
    """
    return _Loader(document, registry).load(environ)


def load_trackers(document: Document, registry: Registry) -> list[tuple[str, Tracker]]:
    """Return the trackers that the key ``trackers`` of *document* names, each with its name.

    Raises:
        ConfigError, PluginError: as :func:`load`.
    """
    loader = _Loader(document, registry)
    trackers = cast("list[Tracker]", loader.trackers(document.data.get("trackers")))
    return [(loader.selected[f"trackers.{index}"].name, tracker) for index, tracker in enumerate(trackers)]


_MAY_BE_EMPTY = ("ask", "non_finite", "training_args", "template_path", "template_kwargs")
"""Sections that may stand without a value, as they do once every line in them is commented out."""


class _Loader:
    """Resolves names to components, and remembers which were used."""

    def __init__(self, document: Document, registry: Registry) -> None:
        self.document = document
        self.registry = registry
        self.selected: dict[str, Entry] = {}

    def load(self, environ: Mapping[str, str]) -> Loaded:
        raw = {key: value for key, value in self.document.data.items() if value is not None or key not in _MAY_BE_EMPTY}
        ready: dict[str, Any] = {}
        if "data" in raw:
            ready["data"] = self._data(raw["data"])
        if "method" in raw:
            ready["method"] = self.component("method", raw["method"], ("method",))
        if "template" in raw:
            ready["template"] = (
                None if raw["template"] is None else self.component("template", raw["template"], ("template",))
            )
        if "trackers" in raw:
            ready["trackers"] = self.trackers(raw["trackers"])
        ready["backend"] = self._backend(raw.get("backend", AUTO), environ)
        config = fill(Config, raw, self.document, (), known=ready, elsewhere=ELSEWHERE)
        self._refuse_owned(config.training_args)
        for name in config.template_kwargs.keys() & RESERVED:
            raise self.document.error(("template_kwargs", name), "is no variable of a chat template: rendering sets it")
        return Loaded(config, self.document, self.selected)

    def component(self, kind: str, reference: object, keys: Keys, slot: Keys | None = None) -> Component:
        """Return the component that *reference*, a name or ``{name: ..., options}``, stands for.

        *slot* is the key that the record of selected plugins uses, where it differs from *keys*.
        """
        name, options = self._name_and_options(kind, reference, keys)
        try:
            entry = self.registry.find(kind, name)
            cls = entry.component_class()
        except PluginError as error:
            raise PluginError(str(self.document.error(keys, str(error)))) from None
        missing = [package for package in cls.requires if importlib.util.find_spec(package) is None]
        if missing:
            wanted = " ".join(missing)
            raise self.document.error(keys, f"the {kind} '{name}' needs what is not installed: pip install {wanted}")
        if isinstance(entry.target, Path):
            for key in options:
                raise self.document.error((*keys, key), "unknown key; this template is a file and has no options")
            component: Component = FileTemplate(entry.target)
        else:
            component = fill(cls, options, self.document, keys)
        self.selected[dotted(slot or keys)] = entry
        return component

    def _name_and_options(self, kind: str, reference: object, keys: Keys) -> tuple[str, dict[str, Any]]:
        if isinstance(reference, str):
            return reference, {}
        if isinstance(reference, Mapping):
            if not isinstance(name := reference.get("name"), str):
                raise self.document.error(keys, f"which {kind}? give its 'name' beside the options")
            return name, {key: value for key, value in reference.items() if key != "name"}
        raise self.document.error(
            keys, f"must be the name of a {kind}, or a mapping with 'name' and options, not {shown(reference)}"
        )

    def _data(self, raw: object) -> DataConfig:
        if not isinstance(raw, Mapping):
            raise self.document.error(("data",), "must be a mapping with 'train'")
        known: dict[str, Any] = {}
        if "train" in raw:
            known["train"] = self._sources(raw["train"], ("data", "train"))
        held_back = raw.get("eval")
        if isinstance(held_back, Mapping) and "path" not in held_back:
            known["eval"] = fill(EvalFraction, held_back, self.document, ("data", "eval"))
        elif held_back is not None:
            known["eval"] = self._sources(held_back, ("data", "eval"))
        return fill(DataConfig, raw, self.document, ("data",), known=known)

    def _sources(self, raw: object, keys: Keys) -> list[SourceConfig]:
        if isinstance(raw, list) and not raw:
            raise self.document.error(keys, "names no source")
        if isinstance(raw, list):
            return [self._source(item, (*keys, index), (*keys, index)) for index, item in enumerate(raw)]
        return [self._source(raw, keys, (*keys, 0))]

    def _source(self, raw: object, keys: Keys, slot: Keys) -> SourceConfig:
        if not isinstance(raw, (str, Mapping)):
            raise self.document.error(keys, f"must be a path, or a mapping, not {shown(raw)}")
        source = fill(SourceConfig, {"path": raw} if isinstance(raw, str) else raw, self.document, keys)
        if source.format != AUTO:
            source.format = self.component("format", source.format, (*keys, "format"), (*slot, "format"))
        return source

    def trackers(self, raw: object) -> list[Component]:
        """Return the trackers that *raw*, one reference, a list of them or None, stands for."""
        references = raw if isinstance(raw, list) else [] if raw is None else [raw]
        return [self.component("tracker", reference, ("trackers", index)) for index, reference in enumerate(references)]

    def _backend(self, reference: object, environ: Mapping[str, str]) -> Component:
        if reference != AUTO:
            return self.component("backend", reference, ("backend",))
        backends = cast("Iterator[tuple[Entry, Backend]]", self.registry.usable("backend"))
        claims = [entry.qualified for entry, backend in backends if backend.launched(environ)]
        if len(claims) > 1:
            raise self.document.error(
                ("backend",), f"several backends claim this process ({', '.join(claims)}); name one"
            )
        return self.component("backend", claims[0], ("backend",)) if claims else Backend()

    def _refuse_owned(self, training_args: Mapping[str, Any]) -> None:
        """Raise for a training argument that is a backend's own."""
        for entry, backend in self.registry.usable("backend"):
            for key in training_args.keys() & set(cast("Backend", backend).owns):
                raise self.document.error(
                    ("training_args", key), f"is set by the backend '{entry.name}': select it under 'backend'"
                )


def load_template(path: Path, document: Document) -> FileTemplate:
    """Return the template in the file *path*, which ``template_path`` names."""
    if not path.is_file():
        raise document.error(("template_path",), f"there is no file {path}")
    return FileTemplate(path)
