"""What a run would build, built once without weights before its data is prepared: whatever would be rejected later."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
import transformers

from sftcore.checkpoint.store import Checkpoint
from sftcore.config.document import Keys
from sftcore.config.loader import LoadedConfig
from sftcore.core.components import Backend
from sftcore.core.errors import ConfigError, SftError
from sftcore.models.base_model import BaseModel
from sftcore.models.chat_template import ModelSetup
from sftcore.runtime.console import count, first_line, is_main_process, warn
from sftcore.runtime.rank_control import LAUNCH_FOLDER_VARIABLE
from sftcore.training.arguments import build_training_args, check_optimizer_targets, check_training_args, named_key
from sftcore.training.callbacks import question_ids
from sftcore.training.resume import NAMES

_SECONDS = 120
"""Real time after which the process that builds everything ends, and the run continues without its result."""

_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables by which libraries would wait for other ranks."""

_OF_RANKS = ("ddp_backend", "parallelism_config", "push_to_hub")
"""Arguments that need all ranks, or the network."""

Problem = tuple[Keys | None, str]
"""The keys that have a problem, None where the text names its place itself, and the text."""


def check_before_data(loaded: LoadedConfig, setup: ModelSetup) -> None:
    """Build model, method, training arguments, optimizer and schedule without weights or data.

    It happens in a forked process, so that no device, process group or random state of this one is used. Ranks whose
    launcher has checked the same leave it out.

    Raises:
        ConfigError: with everything that would be rejected later, and its place.
    """
    if LAUNCH_FOLDER_VARIABLE in os.environ or not is_main_process():
        return
    problems = loaded.document.collect()
    with problems:
        check_training_args(loaded)
    for keys, problem in _found_in_child(loaded, setup):
        with problems:
            raise ConfigError(problem) if keys is None else loaded.document.error(keys, problem)
    problems.raise_all()


def _found_in_child(loaded: LoadedConfig, setup: ModelSetup) -> list[Problem]:
    """The problems found in a forked process; none where there is no ``fork``, or if that process dies."""
    if not hasattr(os, "fork"):
        return []
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    if not (child := os.fork()):
        _be_child(writer, lambda: list(_problems(loaded, setup)))
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as answer:
            content = answer.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.waitpid(child, 0)
    if not content:
        warn("the process that checks what libraries reject has failed; they may reject it after the data is prepared")
        return []
    return [(keys and tuple(keys), problem) for keys, problem in json.loads(content)]


def _be_child(writer: int, find: Callable[[], list[Problem]]) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(_SECONDS)
        silent = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(silent, stream)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (the process ends with it)
        for name in _LAUNCHERS:
            os.environ.pop(name, None)
        torch.set_num_threads(1)
        os.write(writer, json.dumps(find()).encode())
    finally:
        os._exit(0)


def _problems(loaded: LoadedConfig, setup: ModelSetup) -> Iterator[Problem]:
    """Yield the keys of what would be rejected, and why."""
    config, base = loaded.config, setup.base
    found: list[Problem] = [*_files(loaded, base)]
    model: Any = None
    try:
        model = base.build_without_weights()
    except SftError as error:
        if "meta" not in str(error):  # else it needs values to be built
            attention = {"attn_implementation": config.model.attn_implementation}
            found.append((named_key(("model",), str(error), attention), str(error)))
    questions = [*_questions(loaded, setup)]
    found += [(keys, prompt) for keys, prompt in questions if isinstance(prompt, str)]
    if model is not None:
        longest = max((len(prompt) for _, prompt in questions if not isinstance(prompt, str)), default=0)
        found += _positions(loaded, model, longest)
    args = None
    try:
        given = {key: value for key, value in config.training_args.items() if key not in _OF_RANKS}
        alone = replace(loaded, config=replace(config, backend=Backend(), training_args=given))
        args = build_training_args(alone, not torch.accelerator.is_available(), config.data.eval is not None, {})
        args.output_dir = tempfile.gettempdir()  # a Trainer creates it
    except SftError as error:
        found.append((None, str(error)))
    if model is not None and args is not None:
        found += _trained(loaded, model, args)
    yield from found


def _files(loaded: LoadedConfig, base: BaseModel) -> Iterator[Problem]:
    """Files that a run needs, and that are missing."""
    if problem := base.missing_weights():
        yield ("model", "name_or_path"), problem
    selected = loaded.config.training_args.get("resume_from_checkpoint")
    if isinstance(selected, str) and selected not in NAMES:
        exists = Path(selected).is_dir()
        found = Checkpoint.from_folder(Path(selected), read_content=False).problem if exists else "it does not exist"
        if found:
            yield ("training_args", "resume_from_checkpoint"), f"{selected} cannot be resumed from: {found}"


def _questions(loaded: LoadedConfig, setup: ModelSetup) -> Iterator[tuple[Keys, list[int] | str]]:
    """The ids of the prompt of each question for the model, or why it cannot be asked."""
    known = setup.known_ids
    for at, question in enumerate(loaded.config.ask.questions):
        keys: Keys = ("ask", "questions", at)
        try:
            ids = question_ids(setup.tokenizer, setup.question_prompt(question))["input_ids"][0].tolist()
        except Exception as error:
            yield keys, f"the chat template cannot render it: {first_line(error)}"
        else:
            yield keys, known.describe(max(ids)) if known and max(ids) >= known.rows else ids


def _positions(loaded: LoadedConfig, model: Any, longest_prompt: int) -> Iterator[Problem]:
    """Lengths for which the model has no position: where positions are learned, each has its row."""
    limit, data, ask = learned_positions(model), loaded.config.data, loaded.config.ask
    if not limit:
        return
    rows = f"the model has {count(limit, 'position')} (max_position_embeddings)"
    if data.max_length > limit:
        yield ("data", "max_length"), f"{rows}, so it must be at most {limit:,}, not {data.max_length:,}"
    if longest_prompt and longest_prompt + ask.max_new_tokens > limit:
        needed = f"a question of {longest_prompt:,} tokens and an answer of {ask.max_new_tokens:,}"
        yield ("ask", "max_new_tokens"), f"{rows}, and {needed} need more"


def learned_positions(model: Any) -> int | None:
    """The number of positions of *model* if it has learned a vector for each; None where they are computed."""
    own = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for name, module in model.named_modules():
        learned = isinstance(module, torch.nn.Embedding) and id(module) not in own
        if learned and limit and re.search(r"pos|wpe", name) and module.num_embeddings >= limit:
            return int(limit)
    return None


def _trained(loaded: LoadedConfig, model: Any, args: transformers.TrainingArguments) -> Iterator[Problem]:
    """What method, optimizer, schedule and training arguments reject of the *model* on the meta device."""
    quantized = _quantized_weights(model)
    try:
        loaded.config.method.load_options(model.dtype)
        model = loaded.config.method.prepare(model, args)
    except SftError as error:
        yield ("method",), str(error)
        return
    except Exception:  # of what cannot be done without weights; the run itself reports it otherwise
        return
    try:
        check_optimizer_targets(args, model)
    except SftError as error:
        yield ("training_args", "optim_target_modules"), str(error)
    if any(weight.requires_grad for weight in quantized):
        problem = "trains weights that the checkpoint has quantized, which is not possible; choose a method with "
        yield ("method",), problem + "adapters, or a checkpoint that is not quantized"
    dtypes = {weight.dtype for weight in model.parameters() if weight.requires_grad}
    if args.fp16 and torch.float16 in dtypes:
        problem = "does not work with trained weights in float16: their gradients cannot be unscaled; "
        yield ("training_args", "fp16"), problem + "set model.dtype to float32, or use bf16"
    given = loaded.config.training_args
    for about, problem in _rejected_by_libraries(loaded, model, args):
        if "meta" not in problem:  # else there is an operation that needs weights
            keys = named_key(("training_args",), problem, given)
            nearest = sorted((key for key in given if key.startswith(about)), key=len)  # the longest has its options
            yield keys if keys[1:] else (*keys, *nearest[-1:]), problem


def _quantized_weights(model: Any) -> list[Any]:
    """The weights of layers that a quantized checkpoint has quantized."""
    quantization = getattr(model.config, "quantization_config", None) or {}
    options = quantization if isinstance(quantization, dict) else quantization.to_dict()
    if not options or options.get("dequantize") or options.get("quant_method") == "mxfp4":
        return []
    head = model.get_output_embeddings()
    return [part.weight for part in model.modules() if isinstance(part, torch.nn.Linear) and part is not head]


def _rejected_by_libraries(
    loaded: LoadedConfig, model: Any, args: transformers.TrainingArguments
) -> Iterator[tuple[str, str]]:
    """Build what the training arguments name; yield the prefix of the keys of what is rejected, and why."""
    from transformers.integrations.liger import apply_liger_kernel

    rows = [{"input_ids": [0], "labels": [0]}]
    trainer: Any = None

    def build_trainer() -> None:
        nonlocal trainer
        trainer = _PlacelessTrainer(model=model, args=args, train_dataset=rows, eval_dataset=rows)

    def build_optimizer() -> None:
        trainer.optimizer = loaded.config.method.optimizer(model, args)
        trainer.create_optimizer()

    steps: dict[str, Callable[[], Any]] = {
        "-": build_trainer,
        "use_liger": lambda: args.use_liger_kernel and apply_liger_kernel(model, args.liger_kernel_config),
        "optim": build_optimizer,
        "lr_scheduler": lambda: trainer.create_scheduler(num_training_steps=100),
        "dataloader": lambda: trainer.get_train_dataloader(),
        "activation": lambda: _call_checkpointed(args.activation_checkpointing_kwargs or {}),
        "torch_compile": lambda: _compile(args),
    }
    for about, step in steps.items():
        try:
            step()
        except Exception as error:
            yield about, f"{first_line(error)} ({type(error).__name__})"
            if about in ("-", "optim"):
                return


class _PlacelessTrainer(transformers.Trainer):  # type: ignore[misc]
    """A Trainer whose model has no weights to be moved to a device."""

    def _move_model_to_device(self, model: Any, device: Any) -> None: ...


def _call_checkpointed(options: Mapping[str, Any]) -> None:
    from torch.utils.checkpoint import checkpoint

    def layer(values: torch.Tensor) -> torch.Tensor:
        return values

    checkpoint(layer, torch.ones(1, requires_grad=True), **{"use_reentrant": False, **options})


def _compile(args: transformers.TrainingArguments) -> None:
    if args.torch_compile:
        torch.compile(torch.nn.Identity(), backend=args.torch_compile_backend, mode=args.torch_compile_mode)
