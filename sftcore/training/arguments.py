"""``training_args``: passed on to ``transformers.TrainingArguments``, each name and value checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
import transformers

from sftcore.config.fields import check_options
from sftcore.config.loader import LoadedConfig
from sftcore.config.schema import MISPLACED_KEYS
from sftcore.core.errors import SftError
from sftcore.runtime.console import count, warn

_ELSEWHERE = {
    "seed": "it is the top-level key 'seed'",
    "report_to": "name trackers under the top-level key 'trackers'",
    "project": "it is an option of a tracker, under 'trackers'",
    "trackio_space_id": "it is read by transformers' own tracking only; use 'trackers'",
    "do_train": "`sft run` always trains",
    "do_eval": "it follows from 'data.eval'",
    "do_predict": "`sft run` does not predict",
    "remove_unused_columns": "sftcore makes the batches itself",
    "label_names": "sftcore makes the batches itself",
    "use_cache": "training has no use for a cache, and packed rows would see each other through it",
    "log_level": "a run prints its own lines, and only errors of the libraries",
    "log_level_replica": "a run prints its own lines, and only errors of the libraries",
    "logging_nan_inf_filter": "a loss that is no number is shown as it is; 'non_finite' says what becomes of its step",
    "ignore_data_skip": "a run that goes on trains the rows that come next",
    "enable_jit_checkpoint": "a run that is asked to stop writes a checkpoint itself",
    "restore_callback_states_from_checkpoint": "nothing would read it",
    "average_tokens_across_devices": "the loss is always the mean over all trained tokens of a step",
}
"""Arguments that nothing would read here, or that would break the run, and what to write instead."""


_WITHIN_BACKWARD = "lomo", "layerwise"
"""How the names of optimizers end that take their step within the backward pass, and keep a state no checkpoint has."""

_NOT_STREAMED = {
    "dataloader_num_workers": "each worker would read all rows; data.workers says how many processes label them ahead",
    "auto_find_batch_size": "the rows that were tried would be gone",
}
"""Arguments that cannot be set where the rows are a stream, and why."""


def check_given(loaded: LoadedConfig) -> dict[str, Any]:
    """Return the user's own arguments, each of a known name and the right type.

    Raises:
        ConfigError: an unknown name, a wrong value, or one that has its place elsewhere.
    """
    document, given = loaded.document, loaded.config.training_args
    for key in given.keys() & _ELSEWHERE.keys():
        raise document.error(("training_args", key), f"cannot be set here: {_ELSEWHERE[key]}")
    if (strategy := given.get("train_sampling_strategy")) not in (None, "random", "sequential"):
        raise document.error(
            ("training_args", "train_sampling_strategy"), f"'{strategy}' does not work here; use 'packing'"
        )
    if str(optimizer := given.get("optim", "")).endswith(_WITHIN_BACKWARD):
        raise document.error(
            ("training_args", "optim"),
            f"'{optimizer}' does not work here: it takes each step within the backward pass, so that none can be left "
            "out, and its state is in no checkpoint",
        )
    checked = check_options(
        transformers.TrainingArguments, given, document, ("training_args",), misplaced=MISPLACED_KEYS
    )
    if loaded.config.data.streaming:
        _check_streaming(loaded, checked)
    return checked


def _check_streaming(loaded: LoadedConfig, given: Mapping[str, Any]) -> None:
    """Raise for what cannot be where the rows are a stream.

    Raises:
        ConfigError: there is no number of steps, or an argument would give other rows than the stream has.
    """
    if given.get("max_steps", -1) <= 0:
        problem = "must be at least 1 with data.streaming: how long a stream is is not known, so say when to stop"
        raise loaded.document.error(("training_args", "max_steps"), problem)
    for key, why in _NOT_STREAMED.items():
        if given.get(key):
            raise loaded.document.error(("training_args", key), f"does not go with data.streaming: {why}")


def batch_sizes(loaded: LoadedConfig) -> tuple[int, int]:
    """Return how many rows a batch has that a device trains on, and one that it evaluates on.

    Raises:
        ConfigError: as :func:`check_given`.
    """
    given = check_given(loaded)
    defaults = {field.name: field.default for field in fields(transformers.TrainingArguments)}
    train, held_back = (f"per_device_{part}_batch_size" for part in ("train", "eval"))
    return int(given.get(train, defaults[train])), int(given.get(held_back, defaults[held_back]))


def build(
    loaded: LoadedConfig, cpu: bool, has_eval: bool, environ: Mapping[str, str]
) -> transformers.TrainingArguments:
    """Return the checked ``TrainingArguments`` of a run.

    Args:
        cpu: no accelerator is there, so that ranks have to be told to use the CPU.
        has_eval: there are rows to evaluate on.

    Raises:
        ConfigError: an unknown name, a wrong value, or one that has its place elsewhere.
        SftError: the processes that work together are not those the launcher started.
    """
    document = loaded.document
    values = {**_defaults(loaded, cpu, has_eval), **check_given(loaded)}
    if values["eval_strategy"] != "no" and not has_eval:
        raise document.error(("training_args", "eval_strategy"), "there is nothing to evaluate on; give 'data.eval'")
    try:
        args = transformers.TrainingArguments(**values, **loaded.config.backend.training_args())
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:
        raise document.error(("training_args",), f"transformers refuses them: {error}") from None
    _check_world(args, environ)
    if loaded.config.data.streaming:
        if args.accelerator_config.split_batches or args.accelerator_config.dispatch_batches:
            problem = "split_batches and dispatch_batches do not go with data.streaming: each process reads the stream"
            raise document.error(("training_args", "accelerator_config"), problem)
        args.accelerator_config.dispatch_batches = False
    return args


def _defaults(loaded: LoadedConfig, cpu: bool, has_eval: bool) -> dict[str, Any]:
    """Return what is set where the user says nothing; docs/config.md lists them."""
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
    """Refuse ranks that would each train alone or share a GPU, and keep one process to one device."""
    launched = int(environ.get("WORLD_SIZE", "1"))
    if args.world_size != launched:
        raise SftError(
            f"the launcher started {launched} processes, but {args.world_size} would work together; "
            "on a machine without an accelerator leave training_args.use_cpu unset or true"
        )
    here, gpus = int(environ.get("LOCAL_WORLD_SIZE") or environ.get("LOCAL_SIZE") or 1), torch.cuda.device_count()
    if args.device.type == "cuda" and here > gpus:  # two of them would share a GPU, which NCCL refuses, much later
        raise SftError(f"the launcher started {here} processes on this machine, which has {count(gpus, 'GPU')}")
    if args.n_gpu > 1:
        warn(f"one process uses one of the {args.n_gpu} GPUs; select a backend, or a launcher, to use them all")
        args._n_gpu = 1
