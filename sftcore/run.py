"""The story of a run, top to bottom."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from sftcore import base_model, chat_template
from sftcore.config import load
from sftcore.data import Prepared, Rows, check_rows, prepare, quarantine
from sftcore.document import Document
from sftcore.errors import SftError
from sftcore.plugins import Registry
from sftcore.record import RunRecord, redact
from sftcore.report import count, is_main_process, quiet_libraries, say, warn

LAUNCHED = "SFTCORE_LAUNCHED"
"""Set in the environment of a launcher, so that its processes are not taken for new ones."""

FEW = 5
"""How many bad rows of a source are shown, where a run goes on without them."""


def run(document: Document, registry: Registry, argv: Sequence[str]) -> int:
    """Fine-tune as *document* says.

    Args:
        argv: the command-line arguments, for the processes that a backend starts.

    Returns:
        The exit code; where a backend starts processes, this one becomes its launcher.

    Raises:
        SftError: the user can mend it; the message says how.
    """
    quiet_libraries()
    loaded = load(document, registry, os.environ)
    say("config", document.name)
    from sftcore import training_args

    training_args.check_given(loaded)
    rows = check_rows(loaded, registry)
    command = None if _is_launched(os.environ) else loaded.config.backend.command(argv)
    if command is not None:
        _become(command)
    _tell_read(rows)

    import torch
    import transformers

    cpu = not torch.accelerator.is_available()
    loaded.config.backend.start(os.environ, cpu)
    from sftcore import callbacks, checkpoint, train

    transformers.utils.logging.disable_progress_bar()
    base = base_model.find(loaded.config.model, document)  # before any argument makes transformers shard what it loads
    args = training_args.build(loaded, cpu, bool(rows.eval), os.environ)
    tokenizer = base.tokenizer()
    template = chat_template.choose_template(loaded, tokenizer, base)
    say("template", template.reason)
    labeller = chat_template.labeller(loaded, tokenizer, template)
    batch_sizes = (args.per_device_train_batch_size, args.per_device_eval_batch_size)
    prepared = prepare(rows, loaded.config.data, labeller, batch_sizes)
    _tell_prepared(prepared)

    folder = _output_folder(args.output_dir)
    resume = checkpoint.resume_from(args, folder)
    record = RunRecord(folder, loaded, list(argv), os.environ)
    trackers = callbacks.TrackerGroup(loaded.config.trackers if is_main_process() else [])
    model = train.load_model(base, loaded.config, args)
    stop_ids, stop_texts = chat_template.stop_token_ids(tokenizer, labeller.stops)
    for text in stop_texts:
        warn(f"the stop string {text!r} is no token of this tokenizer: whoever serves the model has to stop at it")
    train.set_stops(model, stop_ids, tokenizer.pad_token_id)
    trainer, ask = train.build_trainer(model, loaded.config, args, tokenizer, prepared, trackers)
    if is_main_process():
        record.begin(resuming=resume is not None and Path(resume).resolve().parent == folder.resolve())
        kept = quarantine.write(folder, prepared.refused, loaded.config.data, document)
        if kept:
            say("refused", f"{count(len(prepared.refused), 'row')}, kept in {kept}")
        record.write(
            training_args=redact(args.to_dict()),
            base_model={"name": base.name, "fingerprint": base.fingerprint(model)},
            data={
                "fingerprint": rows.fingerprint(),
                "rows": asdict(prepared.account),
                "train": vars(prepared.train_summary),
                "eval": vars(prepared.eval_summary),
            },
            template={"chosen": template.reason, "fingerprint": template.fingerprint, "stops": labeller.stops},
        )
    signal.signal(signal.SIGTERM, _terminated)
    try:
        trackers.start(
            {
                "name": args.run_name or folder.name,
                "output_dir": str(folder),
                "config": record.content["config"],
                "versions": record.content["versions"],
            }
        )
        result = trainer.train(resume_from_checkpoint=resume)
        checkpoint.save(trainer, tokenizer, folder)
    except BaseException as error:
        trackers.finish(error)
        if is_main_process():
            stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
            record.end("interrupted" if stopped else "failed", error=f"{type(error).__name__}: {error}")
        raise
    trackers.finish()
    if is_main_process():
        record.end("finished", steps=result.global_step, metrics=result.metrics, asked=ask.answers)
    say("saved", f"{folder} ({count(result.global_step, 'step')}, loss {result.training_loss:.4f})")
    return 0


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


def _terminated(number: int, frame: object) -> None:
    """End the run as schedulers and launchers ask for it, so that its record and trackers say so."""
    raise SystemExit(128 + number)


def _is_launched(environ: Mapping[str, str]) -> bool:
    """Tell whether some launcher started this process: all of them set torch's rendezvous variables."""
    return "RANK" in environ and "WORLD_SIZE" in environ


def _become(command: Sequence[str]) -> None:
    """Replace this process by *command*, so that signals and the exit code are the launcher's."""
    if LAUNCHED in os.environ:
        raise SftError(
            "the backend's launcher started this process without RANK and WORLD_SIZE, so that it would start launchers "
            "for ever; the backend needs a launcher that sets them, as torch's does"
        )
    os.environ[LAUNCHED] = "1"
    say("launch", " ".join(command))
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        raise SftError(f"the launcher cannot be started: {command[0]}: {error}") from None


def _tell_read(rows: Rows) -> None:
    """Say which rows were read, with the first bad ones of each source, and how they are used."""
    for source in rows.sources:
        refused = f", {len(source.refused):,} refused:" if source.refused else ""
        say("data", f"{source.path}: {count(source.read, 'row')}, format {source.chosen}{refused}")
        for refusal in source.refused[:FEW]:
            say("data", f"  {refusal}")
        if len(source.refused) > FEW:
            say("data", f"  ... and {len(source.refused) - FEW} more")
    for note in rows.notes:
        say("data", note)


def _tell_prepared(prepared: Prepared) -> None:
    """Say what became of the rows."""
    for name, summary in (("train", prepared.train_summary), ("eval", prepared.eval_summary)):
        if summary.rows:
            share = summary.trained / max(summary.tokens, 1)
            rows, tokens = count(summary.kept, "row"), count(summary.tokens, "token")
            more = f" in {count(summary.examples, 'example')}" if summary.examples != summary.kept else ""
            say(name, f"{rows}{more}, {tokens}, {summary.trained:,} of them trained ({share:.0%})")
        for note in summary.notes:
            say(name, note)
    say("rows", str(prepared.account))
