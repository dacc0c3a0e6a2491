"""A watchdog over the ranks: one that hangs or is gone ends the run, instead of making the others wait forever."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch.distributed
from torch.distributed import distributed_c10d

from sftcore.core.errors import RankError
from sftcore.distributed.ranks import Ranks
from sftcore.runtime.signals import Stopped

FINISHED, FAILED, STOPPED = -1, -2, -3  # the last heartbeat of a rank: how it ended


class Watchdog:
    """Publishes the heartbeat and progress of this rank, and checks those of all ranks.

    A thread of each rank counts heartbeats and the phases of its work in the store of torch.distributed. A rank without
    heartbeats is considered dead; if no rank makes progress, those that are behind the others are to blame.

    Args:
        heartbeat_timeout: seconds that a rank may be without a heartbeat.
        progress_timeout: seconds that all ranks may be without progress.
        on_failure: called with the reason, on each rank that ends the run.
    """

    def __init__(
        self, ranks: Ranks, heartbeat_timeout: float, progress_timeout: float, on_failure: Callable[[str], None]
    ) -> None:
        self._ranks, self._on_failure = ranks, on_failure
        self._heartbeat_timeout, self._progress_timeout = heartbeat_timeout, progress_timeout
        self._interval = min(heartbeat_timeout / 10, 5.0)
        self._progress, self._phase = 0, "starting"
        self._over, self._ending_published = threading.Event(), threading.Event()
        self._store: Any = None
        self._states: list[Any] = []  # of each rank: heartbeat, progress, phase
        self._changes: dict[tuple[str, int], tuple[object, float]] = {}  # values, and when they last changed
        self._last_contact = 0.0
        self._ending = FINISHED

    def report_phase(self, phase: str) -> None:
        """Report that the work of this rank is at *phase*, or has made progress in it."""
        self._progress, self._phase = self._progress + 1, phase

    def __enter__(self) -> Watchdog:
        if self._ranks.size > 1:
            # a connection of its own: the main thread may block the other one
            self._store = torch.distributed.PrefixStore(
                "sftcore watchdog", distributed_c10d._get_default_store().clone()
            )
            self._last_contact = time.monotonic()
            for target in (self._publish_heartbeats, self._check_ranks):
                threading.Thread(target=target, name=f"watchdog{target.__name__}", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the watch, and publish how this rank ended."""
        self._ending = FINISHED if kind is None else STOPPED if issubclass(kind, Stopped) else FAILED
        self._over.set()
        if self._store is not None:
            self._ending_published.wait(timeout=self._heartbeat_timeout)

    def another_rank_stopped(self) -> bool:
        """Whether another rank has ended because it was asked to stop."""
        if self._store is None:
            return False
        with suppress(RuntimeError, OSError):
            keys = [str(rank) for rank in range(self._ranks.size) if rank != self._ranks.rank]
            return any(json.loads(value)[0] == STOPPED for value in self._store.multi_get(keys))
        return False

    def _publish_heartbeats(self) -> None:
        """Publish heartbeats and read those of all ranks; each access to the store may block forever."""
        keys = [str(rank) for rank in range(self._ranks.size)]
        heartbeat = 0
        try:
            self._publish(0)
            while not self._over.wait(self._interval):
                heartbeat += 1
                self._publish(heartbeat)
                if self._store.check(keys):  # all have begun
                    self._states = [json.loads(value) for value in self._store.multi_get(keys)]
                self._last_contact = time.monotonic()
            self._publish(self._ending)
        except (RuntimeError, OSError):  # the store is gone: rank 0 has ended, and this rank is about to
            return
        finally:
            self._ending_published.set()

    def _publish(self, heartbeat: int) -> None:
        self._store.set(str(self._ranks.rank), json.dumps([heartbeat, self._progress, self._phase]))

    def _check_ranks(self) -> None:
        """Check what the ranks have published, and when that last changed."""
        while not self._over.wait(self._interval):
            silent = time.monotonic() - self._last_contact
            if silent > self._heartbeat_timeout:
                self._abort(f"rank 0, or the network to it, has not answered for {silent:.0f} s")
            if not (states := self._states):
                continue
            if self._run_is_over([state[0] for state in states]):
                return
            for rank, (heartbeat, _, phase) in enumerate(states):
                if (seconds := self._age(("heartbeat", rank), heartbeat)) > self._heartbeat_timeout:
                    self._abort(f"rank {rank} has sent no heartbeat for {seconds:.0f} s; it was {phase}")
            seconds = min(self._age(("progress", rank), state[1:]) for rank, state in enumerate(states))
            if seconds > self._progress_timeout:
                least = min(state[1] for state in states)
                behind = [f"rank {rank} is {state[2]}" for rank, state in enumerate(states) if state[1] == least]
                self._abort(f"no rank has made progress for {seconds:.0f} s; behind the others: {', '.join(behind)}")

    def _age(self, key: tuple[str, int], value: object) -> float:
        """Seconds since the *value* of *key* last changed."""
        now = time.monotonic()
        if key not in self._changes or self._changes[key][0] != value:
            self._changes[key] = value, now
        return now - self._changes[key][1]

    def _run_is_over(self, heartbeats: Sequence[int]) -> bool:
        """Whether a rank has ended, so that this one will too; one that failed must take this one with it."""
        if FINISHED in heartbeats:
            return True
        if STOPPED in heartbeats:
            os.kill(os.getpid(), signal.SIGTERM)
            return True
        if FAILED in heartbeats and not self._over.wait(self._heartbeat_timeout):
            failed = [str(rank) for rank, heartbeat in enumerate(heartbeats) if heartbeat == FAILED]
            self._abort(f"rank {', '.join(failed)} has ended with an error")
        return False

    def _abort(self, reason: str) -> None:
        self._on_failure(f"[rank {self._ranks.rank}] {reason}; the run ends, and --resume auto resumes it")
        sys.stderr.flush()
        os._exit(RankError.exit_code)
