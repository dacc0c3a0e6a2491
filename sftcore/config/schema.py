"""Every key of a configuration, as dataclasses: a field is a key, its docstring the description in docs/config.md."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from sftcore.core.components import Backend, Method, Template, Tracker
from sftcore.core.errors import FieldError
from sftcore.core.labelling_policy import Context, Policy, Reasoning, TrainOn, Truncation, Unread
from sftcore.core.types import Role

AUTO = "auto"

SHARES_TOLERANCE = 0.001
"""How far the shares of all sources may be from 1 in total, so that thirds can be written."""


@dataclass
class ModelConfig:
    """The base model."""

    name_or_path: str
    """A hub id, a folder, a GGUF file, or `package:NAME/file` for one in an installed Python package."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; `auto`: that of the checkpoint."""
    attn_implementation: str = "auto"
    """Attention implementation of transformers: `sdpa`, `eager`, `flash_attention_2`, ...; `auto`: its default."""
    trust_remote_code: bool = False
    """Run Python code of the model repository. It can do anything that you can: read it first."""


def _check_train_on(train_on: TrainOn | None) -> None:
    if train_on == []:
        raise FieldError("train_on", "the list of roles is empty, so nothing would be trained")


@dataclass
class SourceConfig:
    """One data source."""

    path: str
    """A file, folder, glob, or the id of a hub dataset. Files end in `.jsonl` (or `.ndjson`), `.json`, `.csv`, `.tsv`,
    which may be compressed (`.gz`, `.bz2`, `.xz`, `.zst`), `.parquet` or `.arrow`."""
    format: Any = AUTO
    """Name of a format, or `{name: ..., options}`; `auto`: by the keys of the first rows."""
    split: str = "train"
    """Split of a hub dataset, or of a folder that `save_to_disk` wrote; a file has none."""
    subset: str | None = None
    """Subset (configuration) of a hub dataset that has several."""
    columns: dict[str, str] = field(default_factory=dict)
    """Columns to rename before the format reads the rows: `{prompt: input, completion: output}`."""
    message_keys: dict[str, str] = field(default_factory=dict)
    """Keys of messages to rename before the format reads them: `{sender: role, text: content}`."""
    roles: dict[str, Role | Literal["tool_call"]] = field(default_factory=dict)
    """Other names of roles, each with `system`, `user`, `assistant`, `tool` or `tool_call`: `{Agent: assistant}`."""
    delimiter: str | None = None
    """What stands between the fields of a `.csv` or `.tsv` file, such as `";"`; null: a comma, or a tab."""
    limit: int | None = None
    """Read only this many rows, from the first on; null: all."""
    repeat: float = 1.0
    """How often each row appears in an epoch; 0.5: half of the rows, selected by a hash of their content."""
    share: float | None = None
    """Share of the rows of an epoch that comes from this source, above 0 and at most 1; null: each row once."""
    weight: float = 1.0
    """Weight of the trained tokens of this source in the loss; multiplied with the weight of a message."""
    train_on: TrainOn | None = None
    """As in `data`, for this source; null: the value in `data`."""
    train_on_stop: bool | None = None
    """As in `data`, for this source; null: the value in `data`."""
    reasoning: Reasoning | None = None
    """As in `data`, for this source; null: the value in `data`."""
    context: Context | None = None
    """As in `data`, for this source; null: the value in `data`."""
    truncation: Truncation | None = None
    """As in `data`, for this source; null: the value in `data`."""
    unread: Unread | None = None
    """As in `data`, for this source; null: the value in `data`."""

    def __post_init__(self) -> None:
        _check_train_on(self.train_on)
        if not 0 <= self.weight < math.inf:
            raise FieldError("weight", f"must be a number of at least 0, not {self.weight:g}")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise FieldError("delimiter", f'must be one character, such as ";" or "\\t", not {self.delimiter!r}')
        if self.limit is not None and self.limit < 1:
            raise FieldError("limit", f"must be at least 1, not {self.limit}")
        if not 0 < self.repeat < math.inf:
            raise FieldError("repeat", f"must be a number above 0, not {self.repeat:g}")
        if self.share is not None and not 0 < self.share <= 1:
            raise FieldError("share", f"must be above 0 and at most 1, not {self.share:g}; for the loss use `weight`")
        if self.share is not None and self.repeat != 1:
            raise FieldError("share", "sets how often a row is sampled, and so does `repeat`; keep one of them")
        for option in ("columns", "message_keys"):
            names: dict[str, str] = getattr(self, option)
            for name in names.values():
                if len(given := [old for old, new in names.items() if new == name]) > 1:
                    raise FieldError(option, f"would rename both {' and '.join(map(repr, given))} to {name!r}")


@dataclass
class EvalFraction:
    """An evaluation set that is held out from the training rows."""

    fraction: float
    """Share of the rows, between 0 and 1; selected by a hash of their content, so that equal rows stay together."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise FieldError("fraction", f"must be between 0 and 1, not {self.fraction:g}")


@dataclass
class DataConfig:
    """The training and evaluation data."""

    train: list[SourceConfig]
    """One source, or a list of sources; a string is a path."""
    eval: list[SourceConfig] | EvalFraction | None = None
    """Sources as in `train`, or `{fraction: 0.05}` to hold out training rows; null: no evaluation."""
    max_length: int = 2048
    """Limit of the length of an example, in tokens; `truncation` sets what happens to longer ones."""
    packing: bool = False
    """Pack short conversations into rows of `max_length`; none attends to another."""
    max_bad_rows: int | float = 0
    """How many malformed rows are allowed: a number, or a share between 0 and 1. They are skipped and written to
    `quarantine.jsonl`; one more ends the run."""
    unread: Unread = "tell"
    """What happens to keys of rows and messages that nothing reads: `tell` reports and counts them, and rejects rows
    with one that changes what is trained, such as `images` or `rejected`; `error` rejects all such rows; `ignore`."""
    max_unlabelled: float = 0.5
    """The share of the rows of a source that may be skipped because the chat template cannot label them with certainty;
    more end the run. Below 1; 1: any number."""
    workers: int | None = None
    """Processes that prepare the data; null: one per CPU core."""
    streaming: bool = False
    """Read, label and train the rows of `train` one after the other, without a cache; for data larger than the disk."""
    shuffle_buffer: int = 10_000
    """With `streaming`: how many rows are shuffled, or packed, at a time."""
    train_on: TrainOn = "assistant"
    """What is trained: `assistant` turns, only the `last_turn`, `all` tokens, or the texts of a list of roles."""
    train_on_stop: bool = True
    """Train the stop token that ends an assistant turn; without it the model does not learn to stop."""
    reasoning: Reasoning = "train"
    """Whether the reasoning of a trained assistant turn is trained or masked."""
    header: Literal["reject", "prompt"] = "reject"
    """What happens if the chat template prints a header before each answer and has no generation prompt: rows are
    rejected, or the header becomes the `prompt`, in the saved chat template too."""
    context: Context = "served"
    """`served`: each turn is trained after the same text as in inference, in an example of its own if necessary;
    `strict`: also after the same generation prompt; `whole`: one example per row, whatever precedes a turn."""
    truncation: Truncation = "drop_turns"
    """What happens to an example longer than `max_length`: drop its oldest exchanges, drop it, split it into several,
    cut off its end, or end the run."""

    def __post_init__(self) -> None:
        _check_train_on(self.train_on)
        for name in ("max_length", "workers", "shuffle_buffer"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise FieldError(name, f"must be at least 1, not {value}")
        if self.streaming and isinstance(self.eval, EvalFraction):
            problem = (
                "a fraction of a stream cannot be held out, because all of it would have to be read before the first "
                "step; move rows to a file of their own, and name it here: none of them is trained"
            )
            raise FieldError("eval", problem)
        if not 0 <= self.max_unlabelled <= 1:
            raise FieldError("max_unlabelled", f"must be a share between 0 and 1, not {self.max_unlabelled:g}")
        if not (0 <= self.max_bad_rows < 1 or (self.max_bad_rows >= 1 and float(self.max_bad_rows).is_integer())):
            problem = f"must be a whole number of rows, or a share between 0 and 1, not {self.max_bad_rows:g}"
            raise FieldError("max_bad_rows", problem)
        if isinstance(self.eval, list) and any(source.share is not None for source in self.eval):
            raise FieldError("eval", "a source has a share, which is for training data only; use limit or repeat")
        shares = [source.share for source in self.train if source.share is not None]
        if shares and len(shares) == len(self.train) and abs(sum(shares) - 1) > SHARES_TOLERANCE:
            raise FieldError("train", f"all sources have a share, but their sum is {sum(shares):g}, not 1")
        if len(shares) < len(self.train) and sum(shares) >= 1:
            problem = f"the sum of the shares is {sum(shares):g}, which leaves nothing for the sources without one"
            raise FieldError("train", problem)

    @property
    def sources(self) -> list[SourceConfig]:
        """All sources: first those of `train`, then those of `eval`."""
        return [*self.train, *(self.eval if isinstance(self.eval, list) else ())]

    def policy(self, source: SourceConfig) -> Policy:
        """Return the policy of *source*: its own keys, and those of `data` where they are null."""
        own = {key: value for key in _PER_SOURCE if (value := getattr(source, key)) is not None}
        shared = {key: getattr(self, key) for key in _PER_SOURCE}
        return Policy(max_length=self.max_length, weight=source.weight, **{**shared, **own})


_PER_SOURCE = ("train_on", "train_on_stop", "reasoning", "context", "truncation", "unread")
"""Keys of `data` that a source may override."""


@dataclass
class AskConfig:
    """Questions to the model before and after training."""

    questions: list[str] = field(default_factory=list)
    """Each is asked in a conversation of its own; the answers are printed and written to run.json."""
    max_new_tokens: int = 48
    """Limit of the length of an answer, in tokens."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise FieldError("max_new_tokens", f"must be at least 1, not {self.max_new_tokens}")


@dataclass
class NonFiniteConfig:
    """What happens in steps whose loss or gradient is not finite."""

    action: Literal["stop", "skip", "continue"] = "stop"
    """`stop`: skip them, and end the run after `patience` of them in a row; `skip`: skip them, however many;
    `continue`: no check."""
    patience: int = 3
    """How many such steps in a row end the run."""

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise FieldError("patience", f"must be at least 1, not {self.patience}")


@dataclass
class Config:
    """A complete, checked configuration; its fields are the top-level keys of the YAML file."""

    model: ModelConfig
    """The base model."""
    data: DataConfig
    """The training and evaluation data."""
    method: Method
    """Which weights are trained: the name of a method, or `{name: ..., options}`."""
    template: Template | None = None
    """Name of a chat template or a file (.json or .jinja), which replaces the tokenizer's; null: the tokenizer's own,
    else `template_path`."""
    template_name: str | None = None
    """Which of several chat templates of the tokenizer; null: `default`, and `tool_use` for rows with tools."""
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Additional variables of the chat template, such as `enable_thinking: false`; the same as in inference."""
    template_path: Path | None = None
    """A template file (.json or .jinja), used where the tokenizer has no template of its own."""
    trackers: list[Tracker] = field(default_factory=list)
    """Names of experiment trackers, or `{name: ..., options}`."""
    backend: Backend = field(default_factory=Backend)
    """How processes are started; `auto`: by the launcher that started this process, if any."""
    seed: int = 42
    """Seed of all random numbers: new weights, the order of the rows, dropout."""
    ask: AskConfig = field(default_factory=AskConfig)
    """Questions to the model before and after training."""
    max_hours: float | None = None
    """Save and stop after this many hours, with exit code 75; null: no limit."""
    rank_timeout: float = 300.0
    """Seconds without a heartbeat after which a rank is considered dead and the run ends. Ranks that are alive but make
    no progress are tolerated for `training_args.ddp_timeout` seconds."""
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)
    """What happens in steps whose loss or gradient is not finite."""
    training_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of transformers.TrainingArguments, under their own names."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise FieldError("seed", f"must be at least 0 and below 2^32, not {self.seed}")
        if self.max_hours is not None and not 0 < self.max_hours < math.inf:
            raise FieldError("max_hours", f"must be a number above 0, not {self.max_hours:g}")
        if not 0 < self.rank_timeout < math.inf:
            raise FieldError("rank_timeout", f"must be a number above 0, not {self.rank_timeout:g}")


MISPLACED_KEYS = {
    item.name: f"{section}.{item.name}"
    for section, cls in (("model", ModelConfig), ("data", DataConfig), ("ask", AskConfig))
    for item in fields(cls)
}
"""The full name of each key of a section, for the error where it stands at the top level."""

SYNONYMS = {
    **dict.fromkeys(("base_model", "model_name", "model_name_or_path"), "name_or_path"),
    **dict.fromkeys(("dataset", "datasets", "dataset_name", "dataset_path", "train_file"), "train"),
    **dict.fromkeys(("val_set_size", "val_size", "validation", "eval_dataset", "test_datasets"), "eval"),
    **dict.fromkeys(("cutoff_len", "max_seq_length", "max_seq_len", "sequence_len", "seq_length"), "max_length"),
    **dict.fromkeys(("sample_packing", "neat_packing", "pack"), "packing"),
    **dict.fromkeys(("train_on_inputs", "assistant_only_loss", "completion_only_loss", "mask_history"), "train_on"),
    **dict.fromkeys(("adapter", "finetuning_type", "train_type", "tuner_type", "peft"), "method"),
    **{"rank": "r", "target": "target_modules", "additional_target": "modules_to_save"},
    **dict.fromkeys(("batch_size", "micro_batch_size", "train_batch_size"), "per_device_train_batch_size"),
    **dict.fromkeys(("epochs", "num_epochs", "max_epochs"), "num_train_epochs"),
    **{"lr": "learning_rate", "lr_scheduler": "lr_scheduler_type", "optimizer": "optim", "steps": "max_steps"},
    **dict.fromkeys(("gradient_accumulation", "grad_accum", "accumulate_grad_batches"), "gradient_accumulation_steps"),
    **dict.fromkeys(("chat_template", "chat_template_type"), "template"),
    **dict.fromkeys(("report_to", "logger", "loggers"), "trackers"),
    **{"flash_attention": "attn_implementation", "attn_impl": "attn_implementation", "torch_dtype": "dtype"},
}
"""What other frameworks and libraries call a key, and what it is called here; for hints only."""
