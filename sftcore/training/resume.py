"""Which checkpoint a run resumes from, and whether it may."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sftcore.checkpoint.store import Checkpoint
from sftcore.checkpoint.writer import RUN_STATE, CheckpointWriter
from sftcore.core.errors import ConfigError
from sftcore.runtime.console import count, status, warn

_AUTO = (True, "true", "True", "auto")
_NEVER = (None, False, "false", "False")
NAMES = (*_AUTO, *_NEVER)
"""Values of ``training_args.resume_from_checkpoint`` that are not paths."""

_MUST_MATCH = (
    ("rows_per_step", "rows per optimizer step", "choose batch size and accumulation so that they are the same"),
    ("seed", "seed of the order of rows", "set it back"),
    ("order", "order of rows", "set it back"),
    ("optim", "optimizer", "set training_args.optim back"),
    ("method", "method", "set it and its options back"),
    ("data", "data", "to continue with other data, set model.name_or_path to the trained model"),
    ("layout", "layout of its state", "choose backend, its options and number of processes as they were"),
)
"""Keys of the run state that must not change, with their names in messages, and what to do."""


_HELD = (
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "optim_args", "optim_target_modules"),
)
"""Training arguments whose values the state of optimizer and schedule holds, so that others would have no effect."""


def held_values(args: Any) -> dict[str, Any]:
    """The values of training arguments that would have no effect in a resumed run, as JSON has them."""
    values = {name: getattr(args, name, None) for name in _HELD}
    plain: dict[str, Any] = json.loads(json.dumps(values, default=lambda value: getattr(value, "value", str(value))))
    return plain


def find_checkpoint(args: Any, writer: CheckpointWriter, relaunched: bool) -> Checkpoint | None:
    """The checkpoint that ``training_args.resume_from_checkpoint`` selects, or None.

    ``auto`` or ``true`` is the newest complete one in the output folder; without one the run starts from scratch.

    Args:
        relaunched: the launcher has restarted all ranks, which resume from the newest checkpoint they wrote, if any.

    Raises:
        ConfigError: the selected checkpoint cannot be resumed from.
    """
    if relaunched and (newest := writer.newest_complete()):
        return newest
    selected = args.resume_from_checkpoint
    if selected in _NEVER:
        return None
    if selected not in _AUTO:
        return writer.checkpoint_at(Path(selected))
    newest = writer.newest_complete()
    if newest is None:
        status("resume", "no checkpoint to resume from; the run starts from scratch")
    return newest


def check_compatible(checkpoint: Checkpoint, now: Mapping[str, Any], world_size: int) -> dict[str, Any]:
    """Check that a run whose state is *now* may resume from *checkpoint*; the run state in it.

    Raises:
        ConfigError: data, order, rows per step, method, optimizer or layout of the state are not the same.
    """
    before: dict[str, Any] = json.loads((checkpoint.path / RUN_STATE).read_text(encoding="utf-8"))
    changed = [
        f"training_args.{name} ({value} there, {now['held'].get(name)} here)"
        for name, value in before["held"].items()
        if value != now["held"].get(name)
    ]
    if changed:
        raise ConfigError(
            f"{checkpoint.path} cannot be resumed from: the state of its optimizer and schedule holds "
            f"{', '.join(changed)}; set it back, or train with other values from its weights in a new run "
            "(model.name_or_path, another output_dir)"
        )
    for key, name, fix in _MUST_MATCH:
        there, here = before[key], now[key]
        if there != here and not (key == "data" and "" in (there, here)):  # that of a stream is not known yet
            values = "" if key in ("data", "method") else f" ({there or 'whole'} there, {here or 'whole'} here)"
            raise ConfigError(
                f"{checkpoint.path} cannot be resumed from: the {name} would not be the same{values}; {fix}, or start "
                "from scratch in another output_dir"
            )
    assert checkpoint.manifest
    size, written = checkpoint.manifest.world_size, checkpoint.manifest.written
    status("resume", f"{checkpoint.path} (step {checkpoint.step:,}, written {written} on {count(size, 'rank')})")
    if size != world_size:
        warn(
            f"that run had {count(size, 'rank')}, this one has {world_size}: the order of rows continues, but random "
            "numbers, such as those of dropout, do not"
        )
    return before
