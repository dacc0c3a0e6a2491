"""The section ``training_args``: checked, and passed on to ``transformers.TrainingArguments``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers

from sftcore.config.document import Document, Keys
from sftcore.config.fields import check_options
from sftcore.config.loader import LoadedConfig
from sftcore.config.schema import MISPLACED_KEYS
from sftcore.core.errors import ConfigError, SftError, nearest
from sftcore.runtime.console import count, warn

_NOT_ALLOWED = {
    "seed": "it is the top-level key 'seed'",
    "report_to": "name trackers under the top-level key 'trackers'",
    "project": "it is an option of a tracker, under 'trackers'",
    "trackio_space_id": "it is read by transformers' own tracking only; use 'trackers'",
    "do_train": "`sft run` always trains",
    "do_eval": "it follows from 'data.eval'",
    "do_predict": "`sft run` does not predict",
    "remove_unused_columns": "sftcore builds the batches itself",
    "label_names": "sftcore builds the batches itself",
    "use_cache": "training does not need a cache, and packed rows would see each other through it",
    "log_level": "a run prints its own lines, and warnings of the libraries once",
    "log_level_replica": "a run prints its own lines, and warnings of the libraries once",
    "logging_nan_inf_filter": "a loss that is not finite is logged as such; 'non_finite' says what happens to its step",
    "ignore_data_skip": "a resumed run trains the rows that come next",
    "enable_jit_checkpoint": "a run that is asked to stop always writes a checkpoint",
    "restore_callback_states_from_checkpoint": "nothing would read it",
    "average_tokens_across_devices": "the loss is always the mean over all trained tokens of a step",
}
"""Arguments that would have no effect or break a run, and what to use instead."""

_AT_LEAST = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), 1),
    **dict.fromkeys(("eval_accumulation_steps", "save_total_limit", "torch_empty_cache_steps", "ddp_timeout"), 1),
    **dict.fromkeys(("ddp_bucket_cap_mb", "dataloader_prefetch_factor"), 1),
    **dict.fromkeys(("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "warmup_ratio"), 0),
    **dict.fromkeys(("neftune_noise_alpha", "dataloader_num_workers", "data_seed", "eval_delay"), 0),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor", "adam_epsilon"), 0),
}
"""The least value of numbers that libraries would take as they are, or reject at the first step."""

_ABOVE = dict.fromkeys(("num_train_epochs", "logging_steps", "eval_steps", "save_steps"), 0)
"""What such numbers must be above."""

_BELOW = {"adam_beta1": 1, "adam_beta2": 1, "label_smoothing_factor": 1, "data_seed": 2**63, "warmup_ratio": 1}
"""What they must be below."""

_METRICS = ("loss", "runtime", "samples_per_second", "steps_per_second")
"""What an evaluation measures."""
_NOT_ALLOWED |= dict.fromkeys(
    ("push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision"),
    "nothing is uploaded, since the output folder has raw rows too; upload the model after the run, with `hf upload`",
)

_STEP_IN_BACKWARD = "lomo", "layerwise"
"""Endings of the names of optimizers that step within the backward pass, and whose state no checkpoint has."""

_TARGETED = "galore", "apollo"
"""Beginnings of the names of optimizers that read ``optim_target_modules``."""

_NOT_STREAMED = {
    "dataloader_num_workers": "each worker would read all rows; data.workers says how many processes label them ahead",
    "auto_find_batch_size": "the rows of failed attempts would be lost",
}
"""Arguments that do not work with a stream, and why."""


def check_training_args(loaded: LoadedConfig) -> dict[str, Any]:
    """The user's own arguments, checked for names and types.

    Raises:
        ConfigError: an unknown name, a wrong value, or an argument that is set elsewhere.
    """
    document, given = loaded.document, loaded.config.training_args
    checked = check_options(
        transformers.TrainingArguments, given, document, ("training_args",), misplaced=MISPLACED_KEYS
    )
    problems = document.collect()
    for key, problem in (*_problems(checked, loaded.config.data.streaming), *_silly_numbers(checked)):
        with problems:
            raise document.error(("training_args", key), problem)
    problems.raise_all()
    return checked


def _silly_numbers(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the numbers with which a run would train nothing, or other than it says."""
    for key, value in given.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        bounds = [(f"at least {_AT_LEAST[key]}", value >= _AT_LEAST[key])] if key in _AT_LEAST else []
        bounds += [(f"above {_ABOVE[key]}", value > _ABOVE[key])] if key in _ABOVE else []
        bounds += [(f"below {_BELOW[key]:g}", value < _BELOW[key])] if key in _BELOW else []
        bounds += [("at least 1, or -1 for no limit", value == -1 or value >= 1)] if key == "max_steps" else []
        bounds = bounds if math.isfinite(value) else [("finite", False)]
        if not all(holds for _, holds in bounds):
            yield key, f"must be {' and '.join(bound for bound, _ in bounds)}, not {value:g}"


def _problems(given: Mapping[str, Any], streaming: bool) -> Iterator[tuple[str, str]]:
    """Yield the arguments that cannot be used, and why."""
    yield from ((key, f"cannot be set here: {why}") for key, why in _NOT_ALLOWED.items() if key in given)
    if (strategy := given.get("train_sampling_strategy")) not in (None, "random", "sequential"):
        yield "train_sampling_strategy", f"'{strategy}' does not work here; use 'packing'"
    if (optimizer := str(given.get("optim"))).endswith(_STEP_IN_BACKWARD):
        yield (
            "optim",
            f"'{optimizer}' does not work here: it takes each step within the backward pass, so that no step can be "
            "skipped, and no checkpoint holds its state",
        )
    for name in ("cross_entropy", "fused_linear_cross_entropy"):
        if (given.get("liger_kernel_config") or {}).get(name):
            yield "liger_kernel_config", f"'{name}' would have no effect: the loss is sftcore's, for every model"
    if given.get("optim_target_modules") and not str(given.get("optim")).startswith(_TARGETED):
        yield "optim_target_modules", f"is read only with an 'optim' of {', '.join(_TARGETED)}"
    metric = given.get("metric_for_best_model")
    if metric is not None and metric.removeprefix("eval_") not in _METRICS:
        yield "metric_for_best_model", f"no evaluation has a metric '{metric}'; the one to use is 'loss'"
    if streaming:
        if given.get("max_steps", -1) <= 0:
            yield "max_steps", "must be at least 1 with data.streaming, because the length of a stream is not known"
        for key, why in _NOT_STREAMED.items():
            if given.get(key):
                yield key, f"does not work with data.streaming: {why}"


def batch_sizes(loaded: LoadedConfig) -> tuple[int, int]:
    """The rows per device in a training batch, and in an evaluation batch.

    Raises:
        ConfigError: as :func:`check_training_args`.
    """
    args = {**vars(transformers.TrainingArguments), **check_training_args(loaded)}  # a dataclass holds its defaults
    return int(args["per_device_train_batch_size"]), int(args["per_device_eval_batch_size"])


def build_training_args(
    loaded: LoadedConfig, cpu: bool, has_eval: bool, environ: Mapping[str, str]
) -> transformers.TrainingArguments:
    """Build the ``TrainingArguments`` of a run.

    Args:
        cpu: this machine has no accelerator, so that all ranks use the CPU.
        has_eval: the run has rows to evaluate on.

    Raises:
        ConfigError: an unknown name, a wrong value, or an argument that is set elsewhere.
        SftError: torch does not see the processes that the launcher started.
    """
    document = loaded.document
    given = check_training_args(loaded)
    values = {**_defaults(loaded, cpu, has_eval), **given}
    for key, unused in () if has_eval else (("eval_strategy", "no"), ("eval_on_start", False)):
        if values.get(key, unused) != unused:
            raise document.error(("training_args", key), "the run has no rows to evaluate on; set 'data.eval'")
    try:
        args = transformers.TrainingArguments(**values, **loaded.config.backend.training_args())
    except (ValueError, TypeError, ImportError, NotImplementedError, OSError, LookupError, AttributeError) as error:
        keys = named_key(("training_args",), str(error), given)
        raise document.error(keys, f"transformers rejects {'it' if keys[1:] else 'them'}: {error}") from None
    _check_world(args, environ)
    if loaded.config.data.streaming:
        batches = args.accelerator_config
        if batches.split_batches or batches.dispatch_batches:
            problem = "split_batches and dispatch_batches do not work with data.streaming: each process reads it"
            raise document.error(("training_args", "accelerator_config"), problem)
        batches.dispatch_batches = False
    return args


def check_batches(document: Document, args: transformers.TrainingArguments, rows: Any, ranks: int) -> None:
    """Check that there is at least one batch.

    Args:
        rows: the training set.

    Raises:
        ConfigError: incomplete batches are omitted, and there are fewer rows than in a batch of all ranks.
    """
    if rows.streaming or not args.dataloader_drop_last or len(rows) >= (needed := args.train_batch_size * ranks):
        return
    problem = f"nothing would be trained: there are {count(len(rows), 'row')}, and a batch of all ranks has {needed:,}"
    raise document.error(("training_args", "dataloader_drop_last"), problem)


def check_optimizer_targets(args: transformers.TrainingArguments, model: Any) -> None:
    """Check that each name in ``optim_target_modules`` matches a module of *model*, by the rules of transformers.

    Raises:
        ConfigError: with the names that match nothing.
    """
    from transformers.trainer_utils import check_target_module_exists

    targets, names = args.optim_target_modules or [], [name for name, _ in model.named_modules() if name]
    for target in [targets] if isinstance(targets, str) else [[name] for name in targets]:
        if target not in ("all-linear", "all_linear") and not any(
            check_target_module_exists(target, name) for name in names
        ):
            wanted = target if isinstance(target, str) else target[0]
            hint = nearest(wanted, {name.rpartition(".")[2] for name in names})
            raise ConfigError(f"'{wanted}' in optim_target_modules matches no module of the model{hint}")


def named_key(section: Keys, message: str, given: Mapping[str, Any]) -> Keys:
    """The key of those *given* that the *message* of a library names, by itself or by its value; or the *section*."""
    words = [*zip(given, given, strict=True), *zip(given, map(str, given.values()), strict=True)]
    named = [key for key, word in words if len(word) > 3 and re.search(rf"\b{re.escape(word)}\b", message, re.I)]
    return (*section, *named[:1])


def _defaults(loaded: LoadedConfig, cpu: bool, has_eval: bool) -> dict[str, Any]:
    """Defaults that differ from transformers' own; docs/config.md lists them."""
    return {
        "output_dir": "outputs/sft",
        "seed": loaded.config.seed,
        "use_cpu": cpu,
        "report_to": [],
        "disable_tqdm": False,
        "remove_unused_columns": False,
        "logging_steps": 10,
        "logging_nan_inf_filter": False,
        "ddp_find_unused_parameters": False,
        "eval_strategy": "epoch" if has_eval else "no",
        "include_num_input_tokens_seen": "all" if loaded.config.data.packing else "non_padding",
    }


def _check_world(args: transformers.TrainingArguments, environ: Mapping[str, str]) -> None:
    """Reject ranks that would each train alone or share a GPU, and limit a single process to one device."""
    launched = int(environ.get("WORLD_SIZE", "1"))
    if args.world_size != launched:
        raise SftError(
            f"the launcher started {launched} processes, but {args.world_size} would train together; "
            "on a machine without an accelerator leave training_args.use_cpu unset or true"
        )
    local, gpus = int(environ.get("LOCAL_WORLD_SIZE") or environ.get("LOCAL_SIZE") or 1), torch.cuda.device_count()
    if args.device.type == "cuda" and local > gpus:  # NCCL rejects two ranks on a GPU, but much later
        raise SftError(f"the launcher started {local} processes on this machine, which has {count(gpus, 'GPU')}")
    if args.n_gpu > 1:
        warn(f"one process uses one of the {args.n_gpu} GPUs; select a backend, or a launcher, to use them all")
        args._n_gpu = 1
