"""What a run holds while it trains: output folder, record, ranks, watchdog, trackers, checkpoints."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from sftcore.checkpoint.export import export_model, try_side_files
from sftcore.checkpoint.store import Checkpoint
from sftcore.checkpoint.writer import CheckpointWriter
from sftcore.config.loader import LoadedConfig
from sftcore.core.errors import RankError, SftError
from sftcore.data import Prepared
from sftcore.data.sources.rejected import QUARANTINE, write_quarantine
from sftcore.data.training_set import Progress
from sftcore.distributed.ranks import Ranks
from sftcore.distributed.watchdog import Watchdog
from sftcore.models.chat_template import ModelSetup
from sftcore.runs.record import RunRecord
from sftcore.runtime.console import count, is_main_process, status, warn
from sftcore.runtime.file_io import FileLock, check_no_links
from sftcore.runtime.library_warnings import report_other_ranks, reported_warnings
from sftcore.runtime.redaction import describe_error, redact
from sftcore.runtime.signals import Stopped, StopRequest
from sftcore.tracking.group import STOPPED_LIMIT, TrackerGroup, describe_run, selected_trackers
from sftcore.training.arguments import build_training_args, check_batches
from sftcore.training.build import TrainingJob, build_job
from sftcore.training.failure import to_user_error
from sftcore.training.resume import check_compatible, find_checkpoint

WRITTEN = (".lock", "run.json", "metrics.jsonl", QUARANTINE, "earlier", "model.writing", "model.trial")
"""Files and folders that a run writes into its output folder, beside checkpoints and the model."""


class RunSession:
    """The training of a run, and what it holds for that."""

    def __init__(self, loaded: LoadedConfig, setup: ModelSetup, prepared: Prepared, argv: Sequence[str]) -> None:
        cpu = not torch.accelerator.is_available()
        loaded.config.backend.start(os.environ, cpu)
        transformers.utils.logging.disable_progress_bar()
        self._loaded, self._setup, self._prepared = loaded, setup, prepared
        self._args = build_training_args(loaded, cpu, bool(prepared.eval), os.environ)
        self._folder = _create_output_folder(self._args.output_dir)
        self._record = RunRecord(self._folder, loaded, list(argv), os.environ)
        self._ranks = Ranks(self._args.ddp_timeout)
        self._watchdog = Watchdog(self._ranks, loaded.config.rank_timeout, self._args.ddp_timeout, self._record_abort)
        self._trackers = TrackerGroup(selected_trackers(loaded) if is_main_process() else [], self._folder)
        self._checkpoints = CheckpointWriter(self._folder, self._ranks, self._record.content["versions"])
        self._job: TrainingJob | None = None

    def train(self, stop: StopRequest) -> None:
        """Train to the last step, and leave the model and the record of the run in the output folder.

        All ranks call it. An error is explained, recorded and tracked here, once.

        Raises:
            SftError: the user can fix it; the message says how.
            Stopped: the run was asked to stop, and can be resumed.
        """
        try:
            self._train(stop)
        except BaseException as error:
            reason = self._explain(error)
            if self._job:
                self._job.progress.close()
            if is_main_process() and self._record.started:
                self._record_failure(reason)
            self._trackers.finish(describe_error(reason))  # last: a second signal ends this process in the wait
            if reason is error:
                raise
            raise reason from None

    def _train(self, stop: StopRequest) -> None:
        args = self._args
        with self._watchdog, self._exclusive_folder():
            relaunched = self._ranks.gather(self._record.is_relaunch())[0]
            checkpoint = find_checkpoint(args, self._checkpoints, relaunched)
            check_batches(self._loaded.document, args, self._prepared.train, self._ranks.size)
            self._job = job = build_job(
                self._setup, self._loaded.config, args, self._prepared, self._checkpoints, stop, self._watchdog
            )
            self._ranks.run_on_writers(lambda: try_side_files(job.trainer, self._setup.tokenizer, self._folder), str)
            self._start_from(checkpoint, job)
            report_other_ranks(self._ranks.gather(reported_warnings()))
            result = job.trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
            job.trainer.check_trained()
            report_other_ranks(self._ranks.gather(reported_warnings()))
            self._watchdog.report_phase("saving the model")
            export_model(job.trainer, self._setup.tokenizer, self._folder, self._ranks)
        data, answers = self._final_data(), job.questions.answers
        if is_main_process():
            self._record.finish("finished", data=data, steps=result.global_step, metrics=result.metrics, asked=answers)
        with suppress(Stopped):  # all is saved: a signal ends the wait alone
            stop.interruptible = True
            self._trackers.finish(limit=STOPPED_LIMIT if stop.reason else None)
        stop.interruptible = False
        status("saved", f"{self._folder} ({count(result.global_step, 'step')}, loss {result.training_loss:.4f})")

    @contextmanager
    def _exclusive_folder(self) -> Iterator[None]:
        """Hold the output folder for this run as long as the context lasts, where its file system has locks."""
        lock = FileLock(self._folder / ".lock")

        def acquire() -> None:
            if not lock.acquire(blocking=False):
                advice = "wait for it to end, or give this run its own output_dir"
                raise SftError(f"another run writes into {self._folder}: {advice}")

        try:
            check_no_links(self._folder, WRITTEN)
            self._ranks.find_writers(self._folder)
            self._ranks.run_on_writers(acquire, str)
            self._args.save_on_each_node = self._ranks.separate_disks
            yield
        finally:
            lock.release()

    def _start_from(self, checkpoint: Checkpoint | None, job: TrainingJob) -> None:
        """Prepare folder, record and trackers for a run that resumes from *checkpoint*, or starts from scratch."""
        state = check_compatible(checkpoint, job.run_state(), self._ranks.size) if checkpoint else {}
        own = checkpoint is not None and checkpoint.path.parent.resolve() == self._folder.resolve()
        self._checkpoints.start_from(checkpoint.step if checkpoint and own else -1)
        if is_main_process():
            self._record.start(resuming=own)
            if own:
                job.metrics.truncate(state["metrics_bytes"])
            job.questions.answers = state.get("asked", job.questions.answers)
            self._write_quarantine()
            self._record.update(**self._inputs(job.trainer.model))
        self._trackers.start(describe_run(self._record.content, self._folder))

    def _explain(self, error: BaseException) -> BaseException:
        """The error for the user; Stopped, where another rank has ended because it was asked to stop."""
        shape = self._job.trainer.batch_shape if self._job else None
        reason = to_user_error(error, self._args, shape, self._loaded.config.data.max_length)
        if isinstance(reason, RankError) and self._watchdog.another_rank_stopped():
            return Stopped("another rank")
        return reason

    def _record_failure(self, reason: BaseException) -> None:
        stopped = isinstance(reason, (Stopped, KeyboardInterrupt, SystemExit))
        data = self._final_data()
        try:
            self._record.finish("interrupted" if stopped else "failed", data=data, error=describe_error(reason))
        except OSError as problem:
            warn(f"{self._record.path} cannot be written: {problem.strerror}")

    def _record_abort(self, reason: str) -> None:
        """Report why the watchdog ends the run, from its thread, while the main thread is blocked."""
        print(f"sft: error: {reason}", file=sys.stderr, flush=True)
        if is_main_process() and self._record.started:
            self._record.finish("failed", error=reason)

    def _write_quarantine(self) -> None:
        """Write the rejected rows; those of a stream are appended while it is read."""
        if written := write_quarantine(self._folder, self._prepared.rejected()):
            path, rows = written
            status("rejected", f"{count(rows, 'row')}, saved in {path}")
        self._prepared.train.save_rejected(self._folder / QUARANTINE)

    def _inputs(self, model: Any) -> dict[str, Any]:
        """What the record says of arguments, model, data and template."""
        base, tokenizer, template, labeller, _ = self._setup
        return {
            "training_args": redact(self._args.to_dict()),
            "base_model": {
                "name": base.name,
                "fingerprint": base.fingerprint(model),
                "code": base.remote_code(getattr(model, "base_model", model), tokenizer),
            },
            "data": _data(self._prepared),
            "template": {"chosen": template.reason, "fingerprint": template.fingerprint, "stops": labeller.stops},
        }

    def _final_data(self) -> dict[str, Any]:
        """What the record says of the data at the end; that of a stream is known only now, and reported."""
        progress = self._job.trainer.progress(self._job.order) if self._job else Progress()
        prepared = self._prepared.final(progress)
        if prepared.train.streaming:
            for note in prepared.train_summary.notes:
                status("train", note)
        if prepared.account != self._prepared.account:
            status("rows", str(prepared.account))
        return _data(prepared)


def _data(prepared: Prepared) -> dict[str, Any]:
    return {
        "fingerprint": prepared.fingerprint,
        "rows": asdict(prepared.account),
        "train": vars(prepared.train_summary),
        "eval": vars(prepared.eval_summary),
    }


def _create_output_folder(name: str) -> Path:
    """Create the output folder; every rank does, so that all of them end if that fails."""
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SftError(f"training_args.output_dir: {folder} cannot be created: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise SftError(f"training_args.output_dir: {folder} is not writable")
    return folder
