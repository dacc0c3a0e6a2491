"""A watch over the ranks: one that hangs, or is gone, ends the run instead of making all others wait."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch.distributed

from sftcore.ranks import Ranks

EXIT_CODE = 2


class Watchdog:
    """Says what this rank does, and looks at what the others do.

    Each rank has a thread that writes down that the process lives, and how far its work has come. A rank whose thread
    is silent is stopped, swapped out or gone; if none comes further, those are to blame that are behind the others.

    Args:
        silent: seconds without a sign of life of a process.
        stuck: seconds in which no rank comes further.
        tell: is told why the run ends, on the rank that notices it first.
    """

    def __init__(self, ranks: Ranks, silent: float, stuck: float, tell: Callable[[str], None]) -> None:
        self._ranks, self._silent, self._stuck, self._tell = ranks, silent, stuck, tell
        self._done, self._phase = 0, "starting"
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._store: Any = None

    def at(self, phase: str) -> None:
        """Note that the work has come to *phase*, or further in it."""
        self._done, self._phase = self._done + 1, phase

    def __enter__(self) -> Watchdog:
        if self._ranks.size > 1:
            default = torch.distributed.distributed_c10d._get_default_store()
            # a connection of its own: the main thread may wait on the other one
            self._store = torch.distributed.PrefixStore("sftcore watch", default.clone())
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the watch; the others are told that this rank is done, and do not miss it."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=self._silent)

    def _watch(self) -> None:
        names = [str(rank) for rank in range(self._ranks.size)]
        lives = 0
        seen: list[tuple[str, float]] = [("", time.monotonic())] * len(names)
        work: list[tuple[Any, float]] = [(None, time.monotonic())] * len(names)
        pause = min(self._silent / 10, 5.0)
        try:
            self._write(0)
            while not self._over.wait(pause):
                lives += 1
                self._write(lives)
                if not self._store.check(names):  # some have not begun
                    continue
                told = [value.decode() for value in self._store.multi_get(names)]
                now = time.monotonic()
                seen = [old if old[0] == new else (new, now) for old, new in zip(seen, told, strict=True)]
                states = [json.loads(each) for each in told]
                work = [old if old[0] == new[1:] else (new[1:], now) for old, new in zip(work, states, strict=True)]
                if any(state[0] < 0 for state in states):  # one is done, so all will be soon
                    return
                self._judge([now - when for _, when in seen], [now - when for _, when in work], states)
            self._write(-1)
        except (RuntimeError, OSError):  # the store is gone: the first rank, or the launcher, has ended
            return

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
        if not any(rank < self._ranks.rank for rank in self._fit(problem)):
            self._tell(f"{problem}; the run ends, and can go on with --resume auto")
        sys.stderr.flush()
        os._exit(EXIT_CODE)

    def _fit(self, problem: str) -> list[int]:
        """Return the ranks that can tell of the problem."""
        return [rank for rank in range(self._ranks.size) if not problem.startswith(f"rank {rank} ")]
