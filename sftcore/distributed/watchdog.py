"""A watch over the ranks: one that hangs, or is gone, ends the run instead of making all others wait."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch.distributed
from torch.distributed import distributed_c10d

from sftcore.core.errors import RankError
from sftcore.distributed.ranks import Ranks
from sftcore.runtime.private_api import PrivateNames
from sftcore.runtime.signals import Stopped

PRIVATE_NAMES = PrivateNames(distributed_c10d, calls={"_get_default_store": ()})

DONE, FAILED, STOPPED = -1, -2, -3
"""What a rank writes in place of a sign of life when it ends."""


class Watchdog:
    """Says what this rank does, and looks at what the others do.

    Each rank writes down, from a thread, that it lives and how far its work has come. A rank that is silent is stopped,
    swapped out or gone; if none comes further, those are to blame that are behind the others.

    Args:
        silent: seconds without a sign of life of a process.
        stuck: seconds in which no rank comes further.
        tell: is told why the run ends, on each rank that notices it.
    """

    def __init__(self, ranks: Ranks, silent: float, stuck: float, tell: Callable[[str], None]) -> None:
        self._ranks, self._silent, self._stuck, self._tell = ranks, silent, stuck, tell
        self._done, self._phase = 0, "starting"
        self._pause = min(silent / 10, 5.0)
        self._over, self._said = threading.Event(), threading.Event()
        self._store: Any = None
        self._states: list[Any] = []
        self._heard = 0.0
        self._how = DONE

    def at(self, phase: str) -> None:
        """Note that the work has come to *phase*, or further in it."""
        self._done, self._phase = self._done + 1, phase

    def __enter__(self) -> Watchdog:
        if self._ranks.size > 1:
            default = distributed_c10d._get_default_store()
            # a connection of its own: the main thread may wait on the other one
            self._store = torch.distributed.PrefixStore("sftcore watch", default.clone())
            self._heard = time.monotonic()
            for work in (self._talk, self._look):
                threading.Thread(target=work, name=f"watchdog{work.__name__}", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the watch; the others are told how this rank ended, and do not miss it."""
        self._how = DONE if kind is None else STOPPED if issubclass(kind, Stopped) else FAILED
        self._over.set()
        if self._store is not None:
            self._said.wait(timeout=self._silent)

    def stopped_elsewhere(self) -> bool:
        """Tell whether another rank has ended because it was asked to stop."""
        if self._store is None:
            return False
        with suppress(RuntimeError, OSError):
            names = [str(rank) for rank in range(self._ranks.size) if rank != self._ranks.rank]
            return any(json.loads(value)[0] == STOPPED for value in self._store.multi_get(names))
        return False

    def _talk(self) -> None:
        """Write down that this process lives, and read what the others wrote; each of this may never come back."""
        names = [str(rank) for rank in range(self._ranks.size)]
        lives = 0
        try:
            self._write(0)
            while not self._over.wait(self._pause):
                lives += 1
                self._write(lives)
                if self._store.check(names):  # all have begun
                    self._states = [json.loads(value) for value in self._store.multi_get(names)]
                self._heard = time.monotonic()
            self._write(self._how)
        except (RuntimeError, OSError):  # the store is gone: the first rank has ended, and so should this one
            return
        finally:
            self._said.set()

    def _look(self) -> None:
        """Judge what the others wrote, and when they last did."""
        count = self._ranks.size
        lives: list[tuple[Any, float]] = [(None, time.monotonic())] * count
        works = lives
        while not self._over.wait(self._pause):
            now = time.monotonic()
            if now - self._heard > self._silent:
                self._end(f"the first rank, or the network to it, gives no sign of life for {now - self._heard:.0f} s")
            if not (states := self._states):
                lives = works = [(None, now)] * count
                continue
            ended = {state[0] for state in states if state[0] < 0}
            if DONE in ended:  # so all will be soon
                return
            if STOPPED in ended:  # and so shall this one
                os.kill(os.getpid(), signal.SIGTERM)
                return
            if FAILED in ended and not self._over.wait(self._silent):
                failed = [str(rank) for rank, state in enumerate(states) if state[0] == FAILED]
                self._end(f"rank {', '.join(failed)} has ended with an error")
            lives = [old if old[0] == new[0] else (new[0], now) for old, new in zip(lives, states, strict=True)]
            works = [old if old[0] == new[1:] else (new[1:], now) for old, new in zip(works, states, strict=True)]
            self._judge([now - when for _, when in lives], [now - when for _, when in works], states)

    def _write(self, lives: int) -> None:
        self._store.set(str(self._ranks.rank), json.dumps([lives, self._done, self._phase]))

    def _judge(self, silent: list[float], stuck: list[float], states: list[Any]) -> None:
        for rank, seconds in enumerate(silent):
            if seconds > self._silent:
                self._end(f"rank {rank} has given no sign of life for {seconds:.0f} s; it was {states[rank][2]}")
        if min(stuck) > self._stuck:
            least = min(state[1] for state in states)
            behind = [rank for rank, state in enumerate(states) if state[1] == least]
            told = ", ".join(f"rank {rank} is {states[rank][2]}" for rank in behind)
            self._end(f"no rank has come further for {min(stuck):.0f} s; behind the others: {told}")

    def _end(self, problem: str) -> None:
        self._tell(f"[rank {self._ranks.rank}] {problem}; the run ends, and can go on with --resume auto")
        sys.stderr.flush()
        os._exit(RankError.exit_code)
