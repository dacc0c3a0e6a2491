"""The story of a run, top to bottom."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from sftcore.config.document import Document
from sftcore.config.schema import Loaded, load
from sftcore.core.errors import RankError, SftError
from sftcore.core.registry import Registry
from sftcore.data import Prepared
from sftcore.data.tables import quarantine
from sftcore.models import chat_template
from sftcore.models.chat_template import ModelSetup
from sftcore.runs.preparation import packed, prepared_data, tell_prepared, tell_read
from sftcore.runs.record import RunRecord
from sftcore.runtime.console import count, is_main_process, quiet_libraries, status, warn
from sftcore.runtime.launch_protocol import LAUNCH_FOLDER_VARIABLE
from sftcore.runtime.private_api import check_private_names
from sftcore.runtime.redaction import describe_error, redact, redact_argv
from sftcore.runtime.signals import Stopped, StopRequest
from sftcore.tracking.group import TrackerGroup, chosen


def run(document: Document, registry: Registry, argv: Sequence[str], stop: StopRequest) -> int:
    """Fine-tune as *document* says.

    Args:
        argv: the command-line arguments, for the processes that a backend starts.
        stop: whether the run was asked to stop.

    Returns:
        The exit code; where a backend starts processes, this one becomes its launcher.

    Raises:
        SftError: the user can mend it; the message says how.
        Stopped: the run was asked to stop, and can go on.
    """
    quiet_libraries()
    loaded = load(document, registry, os.environ)
    status("config", document.name)
    stop.set_deadline(loaded.config.max_hours)
    from sftcore.distributed import watchdog
    from sftcore.training import arguments, trainer

    check_private_names("transformers", trainer.PRIVATE_NAMES, arguments.PRIVATE_NAMES)
    check_private_names("torch", watchdog.PRIVATE_NAMES)
    arguments.check_given(loaded)
    served, prepared = prepared_data(loaded, registry)
    command = None if _is_launched(os.environ) else loaded.config.backend.command(argv)
    if command is not None:
        _become(command)
    status("template", served.template.reason)
    tell_read(prepared)
    prepared = packed(loaded, prepared)
    tell_prepared(prepared)
    with closing(prepared.train) as rows:
        rows.start()
        return _train(loaded, served, prepared, argv, stop)


def _train(loaded: Loaded, served: ModelSetup, prepared: Prepared, argv: Sequence[str], stop: StopRequest) -> int:
    """Train, and leave behind what is trained, and the record of it."""
    import torch
    import transformers

    cpu = not torch.accelerator.is_available()
    loaded.config.backend.start(os.environ, cpu)
    from sftcore.checkpoint import export
    from sftcore.checkpoint.folder_lock import held
    from sftcore.checkpoint.writer import Keeper
    from sftcore.distributed.ranks import Ranks
    from sftcore.distributed.watchdog import Watchdog
    from sftcore.training import arguments, build, failure, out_of_memory, resume

    transformers.utils.logging.disable_progress_bar()
    base, tokenizer, template, labeller = served
    args = arguments.build(loaded, cpu, bool(prepared.eval), os.environ)

    folder = _output_folder(args.output_dir)
    record = RunRecord(folder, loaded, list(argv), os.environ)
    ranks = Ranks(args.ddp_timeout)
    watchdog = Watchdog(ranks, loaded.config.rank_timeout, args.ddp_timeout, partial(_gave_up, record))
    trackers = TrackerGroup(chosen(loaded) if is_main_process() else [], folder)
    built: build.Built | None = None
    try:
        with watchdog, ExitStack() as stack:
            ranks.share(folder)
            ranks.together(lambda: stack.enter_context(held(folder)), str)
            args.save_on_each_node = ranks.apart
            keeper = Keeper(folder, ranks, record.content["versions"])
            source = resume.checkpoint(args, keeper, ranks.gathered(record.begun_before())[0])
            model = build.load_model(base, loaded.config, args)
            stop_ids, stop_texts = chat_template.split_stops(tokenizer, labeller.stops)
            for text in stop_texts:
                warn(f"the stop string {text!r} is no token of this tokenizer: whoever serves the model stops at it")
            build.set_stops(model, stop_ids, tokenizer.pad_token_id)
            built = build.build_trainer(model, loaded.config, args, tokenizer, prepared, keeper, stop, watchdog)
            before = resume.check(source, built, ranks.size) if source else {}
            here = source if source and source.path.parent.resolve() == folder.resolve() else None
            keeper.begin(here.step if here else -1)
            if is_main_process():
                record.begin(resuming=here is not None)
                if here:
                    built.metrics.rewind(before["metrics"])
                built.ask.answers = before.get("asked", built.ask.answers)
                if kept := quarantine.write_quarantine(folder, prepared.rejected()):
                    status("rejected", f"{count(kept[1], 'row')}, written to {kept[0]}")
                prepared.train.save_rejected(folder / quarantine.FILE)
                record.write(
                    training_args=redact(args.to_dict()),
                    base_model={
                        "name": base.name,
                        "fingerprint": base.fingerprint(model),
                        "code": base.remote_code(getattr(model, "base_model", model), tokenizer),
                    },
                    data=_data(prepared),
                    template={"chosen": template.reason, "fingerprint": template.fingerprint, "stops": labeller.stops},
                )
            trackers.start(
                {
                    "id": record.content["id"],
                    "name": args.run_name or folder.name,
                    "command": record.content["command"][2:],
                    "output_dir": str(folder),
                    "config": record.content["config"],
                    "versions": record.content["versions"],
                }
            )
            result = built.trainer.train(resume_from_checkpoint=str(source.path) if source else None)
            watchdog.at("saving the model")
            export.save(built.trainer, tokenizer, folder, ranks)
        trackers.finish()
        data = _data(_ended(prepared))
        if is_main_process():
            record.end("finished", data=data, steps=result.global_step, metrics=result.metrics, asked=built.ask.answers)
    except BaseException as error:
        batch, longest = built.trainer.batch if built else None, loaded.config.data.max_length
        reason = failure.explained(error, folder, lambda: out_of_memory.explain(args, batch, longest))
        if isinstance(reason, RankError) and watchdog.stopped_elsewhere():
            reason = Stopped("another rank")
        if built:
            built.progress.close()
        trackers.finish(describe_error(reason))
        if is_main_process() and record.begun:
            stopped = isinstance(reason, (Stopped, KeyboardInterrupt, SystemExit))
            data = _data(_ended(prepared))
            try:
                record.end("interrupted" if stopped else "failed", data=data, error=describe_error(reason))
            except OSError as problem:
                warn(f"{record.path} cannot be written: {problem.strerror}")
        if reason is error:
            raise
        raise reason from None
    status("saved", f"{folder} ({count(result.global_step, 'step')}, loss {result.training_loss:.4f})")
    return 0


def _gave_up(record: RunRecord, problem: str) -> None:
    """Say why the run ends, from a thread, while the main thread waits for what does not come."""
    print(f"sft: error: {problem}", file=sys.stderr, flush=True)
    if is_main_process() and record.begun:
        record.end("failed", error=problem)


def _data(prepared: Prepared) -> dict[str, Any]:
    """Return what the record says of the data."""
    return {
        "fingerprint": prepared.fingerprint,
        "rows": asdict(prepared.account),
        "train": vars(prepared.train_summary),
        "eval": vars(prepared.eval_summary),
    }


def _ended(prepared: Prepared) -> Prepared:
    """Return *prepared* with what became of the rows of a stream, and say so."""
    if not prepared.train.streaming:
        return prepared
    prepared = prepared.final()
    for note in prepared.train_summary.notes:
        status("train", note)
    status("rows", str(prepared.account))
    return prepared


def _output_folder(name: str) -> Path:
    """Return the output folder, which exists from now on; every rank asks, so that all end if it cannot."""
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SftError(f"training_args.output_dir: {folder} cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise SftError(f"training_args.output_dir: {folder} is not writable")
    return folder


def _is_launched(environ: Mapping[str, str]) -> bool:
    """Tell whether some launcher started this process: all of them set torch's rendezvous variables."""
    return "RANK" in environ and "WORLD_SIZE" in environ


def _become(command: Sequence[str]) -> None:
    """Replace this process by one that runs *command*, hands on requests to stop, and ends as the ranks do."""
    if LAUNCH_FOLDER_VARIABLE in os.environ:
        raise SftError(
            "the backend's launcher started this process without RANK and WORLD_SIZE, so that it would start launchers "
            "for ever; the backend needs a launcher that sets them, as torch's does"
        )
    status("launch", " ".join(redact_argv(command)))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "sftcore.runtime.launcher", *command])
