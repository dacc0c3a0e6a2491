"""Where a run goes on from, and whether it may."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftcore.checkpoint import Checkpoint
from sftcore.checkpoint.writer import STATE, Keeper
from sftcore.core.errors import ConfigError
from sftcore.runtime.console import count, status, warn

if TYPE_CHECKING:
    from sftcore.training.build import Built

AUTO = (True, "true", "True", "auto")
NEVER = (None, False, "false", "False")


def checkpoint(args: Any, keeper: Keeper, anew: bool) -> Checkpoint | None:
    """Return the checkpoint that ``training_args.resume_from_checkpoint`` asks for, or None.

    ``auto`` or ``true`` stands for the newest whole one in the output folder; where there is none, the run begins anew.

    Args:
        anew: all ranks were started anew by their launcher; they go on from the newest that they wrote, if they did.

    Raises:
        ConfigError: it names one that cannot be gone on from.
    """
    if anew and (found := keeper.newest()):
        return found
    wanted = args.resume_from_checkpoint
    if wanted in NEVER:
        return None
    if wanted not in AUTO:
        return keeper.named(Path(wanted))
    found = keeper.newest()
    if found is None:
        status("resume", "there is no checkpoint to go on from; the run begins anew")
    return found


def check(found: Checkpoint, built: Built, ranks: int) -> dict[str, Any]:
    """Return what the checkpoint holds of the run; tell what differs.

    Raises:
        ConfigError: the run would go on as another: its data, its order or the rows of a step are others.
    """
    before, now = json.loads((found.path / STATE).read_text(encoding="utf-8")), built.noted()
    for key, what, mend in (
        ("rows_per_step", "rows in an optimizer step", "choose batch size and accumulation so that they are the same"),
        ("seed", "seed of the order of rows", "set it back"),
        ("order", "order of rows", "set it back"),
        ("optim", "optimizer", "set training_args.optim back"),
        ("method", "method", "set it and its options back"),
        ("data", "data", "to train on with other data, name the trained model as model.name_or_path"),
    ):
        if before[key] != now[key] and "" not in (before[key], now[key]):
            both = "" if key in ("data", "method") else f" ({before[key]} there, {now[key]} here)"
            raise ConfigError(
                f"{found.path} cannot be gone on from: the {what} would not be the same{both}; {mend}, "
                "or begin anew in another output_dir"
            )
    if (there := before.get("layout", "")) != built.layout:
        as_one, told = "whole", "choose the backend, its options and the number of processes as they were"
        raise ConfigError(
            f"{found.path} cannot be gone on from: its state is laid out otherwise ({there or as_one} there, "
            f"{built.layout or as_one} here); {told}, or begin anew in another output_dir"
        )
    assert found.manifest
    size = found.manifest.world_size
    status("resume", f"{found.path} (step {found.step:,}, written {found.manifest.written} on {count(size, 'rank')})")
    if size != ranks:
        warn(
            f"that run had {count(size, 'rank')}, this one has {ranks}: the order of rows goes on as it was, but "
            "random numbers, as of dropout, do not"
        )
    return dict(before)
