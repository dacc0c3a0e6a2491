"""The processes that label blocks of rows, side by side, in order."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from itertools import chain, cycle, islice, repeat
from pathlib import Path

from sftcore.core.errors import SftError
from sftcore.data.preparation.blocks import Block
from sftcore.data.preparation.shared_memory import Place
from sftcore.data.preparation.worker import Done, Task, begin, call, give_back_freed_memory, one_thread, work
from sftcore.labelling import Labeller

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""How much time of processors a container may take, and in which time."""

FEW = 6
"""So many blocks are labelled in this process: to start others would take longer."""

LITTLE = 1 << 22
"""So many bytes of data are labelled in this process, if they are few blocks: it must not use up what others need."""

AHEAD = 2
"""How many blocks wait for each process."""


_AGAIN = "what is finished is kept: run again, with a smaller data.workers"


def cores() -> int:
    """Return how many processor cores this process may use: by its affinity, and by the quota of its container."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = QUOTA.read_text().split()
        found = min(found, max(1, round(int(quota) / int(period))))
    return found


class Workers:
    """Labels blocks in several processes; a context.

    The processes are forked, so that they have the labeller without loading it again, and only on Linux, where that
    is safe. Elsewhere, and for a few blocks, this process does it all; so does a single one, with all cores.

    This process is one of them, unless it has other work to do meanwhile: it labels a block while the others have
    enough to do and no result is ready.

    Args:
        characters: about how many the rows of all sources have.
        processes: how many; by default one for each core.
    """

    def __init__(
        self, tasks: Sequence[Task], labeller: Labeller, characters: int, processes: int | None = None
    ) -> None:
        self._tasks, self._labeller, self._characters = tasks, labeller, characters
        self._processes = processes or cores()
        self._pool: ProcessPoolExecutor | None = None
        self._places: Sequence[Place] = ()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool:
            # not killed: a result of which a part was sent would be waited for at the end of this process, for ever;
            # waited for only if something was left in the middle: a process takes a while to give back its memory
            self._pool.shutdown(wait=not self._places, cancel_futures=True)
            self._pool, self._places = None, ()
            gc.unfreeze()

    def map(self, blocks: Iterable[Block], label: Callable[[], bool], ahead: int = 0) -> Iterator[Done]:
        """Yield what becomes of each of *blocks*, in order; only a few of them are in memory at a time.

        Args:
            label: is asked before a block is begun whether its rows are labelled, or only looked through.
            ahead: let other processes work on at least so many blocks that nobody has asked for yet. If it is 0,
                this process works too, and a table is there only until the next one is asked for.

        Raises:
            DataError: a row is too long, and the policy is to end the run.
            SftError: a process was killed.
        """
        rest = iter(blocks)
        first: list[Block] = []
        if self._characters >= LITTLE or len(first := list(islice(rest, FEW + 1))) > FEW:
            self._start(self._processes if ahead else self._processes - 1)
        most = max(ahead, AHEAD * self._processes)
        # how many blocks the children get at a time; a stream leaves all to them, since this process trains meanwhile
        room = 0 if not self._pool else most + 1 if ahead else AHEAD * (self._processes - 1)
        waiting: deque[Future[tuple[Done, int | None]]] = deque()
        places, self._places = self._places, ()  # whoever is left in the middle may still put a table there
        numbers: Iterator[int | None] = repeat(None) if ahead or not places else cycle(range(len(places)))
        rest = chain(first, rest)
        block, following = next(rest, None), next(rest, None)
        try:
            while block or waiting:
                last = not (following or ahead)  # others would begin it once they are done with what waits for them
                if block and not last and len(waiting) <= most and sum(not each.done() for each in waiting) < room:
                    assert self._pool
                    waiting.append(self._pool.submit(call, block, label(), next(numbers)))
                    block, following = following, next(rest, None)
                elif block and len(waiting) <= most and not (waiting and waiting[0].done()):
                    waiting.append(self._labelled(block, label()))
                    block, following = following, next(rest, None)
                else:
                    yield _received(*waiting.popleft().result(), places)
            self._places = places
        except MemoryError:
            raise SftError(f"memory ran out while the data was prepared; {_AGAIN}") from None
        except BrokenProcessPool:
            why = "was killed, most likely because memory ran out"  # errors of Python come back as such
            raise SftError(f"a process that prepares the data {why}; {_AGAIN}") from None

    def _start(self, children: int) -> None:
        """Fork so many *children*, unless they are there, or none may be."""
        if self._pool or self._processes == 1 or sys.platform != "linux":
            return
        self._labeller.encoder.load(self._characters)
        give_back_freed_memory()
        gc.freeze()  # else the first collection in each process copies all that they share
        context = multiprocessing.get_context("fork")
        self._places = [Place() for _ in range(AHEAD * self._processes + 1)]  # so many blocks are under way
        arguments = (self._tasks, self._labeller, self._places, os.getpid())
        self._pool = ProcessPoolExecutor(children, context, initializer=begin, initargs=arguments)

    def _labelled(self, block: Block, label: bool) -> Future[tuple[Done, int | None]]:
        """Return what becomes of *block*; its error comes when it is its turn, like those of other processes."""
        found: Future[tuple[Done, int | None]] = Future()
        try:
            with one_thread() if self._pool else nullcontext():
                found.set_result((work(block, self._tasks, self._labeller, label), None))
        except (SftError, MemoryError) as error:
            found.set_exception(error)
        return found


def _received(done: Done, place: int | None, places: Sequence[Place]) -> Done:
    return done if place is None else done._replace(table=places[place].table())
