"""The processes that label blocks of rows side by side, with results in order."""

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
from sftcore.data.preparation.worker import (
    SINGLE_THREAD,
    LabelledBlock,
    TableSlot,
    call_libc,
    init_worker,
    label_block,
    label_in_worker,
)
from sftcore.data.sources.formats import DataSource
from sftcore.labelling import Labeller
from sftcore.runtime.signal_mask import terminate_by_sigkill
from sftcore.runtime.variables import environment_variable

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # the processor time of a container, and the period for it
FEW_BLOCKS = 6  # how many blocks are labelled in this process: starting others takes longer
FEW_BYTES = 1 << 22  # how many bytes of data are labelled in this process if they are few blocks
AHEAD = 2  # how many blocks wait for each process

_RETRY = "finished blocks are cached: run again, with a smaller data.workers"


def available_cores() -> int:
    """The number of processor cores this process may use, by its affinity and the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = QUOTA.read_text().split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


class WorkerPool:
    """Labels blocks in several processes; a context manager.

    The processes are forked, so that they have the labeller without loading it again, and only on Linux, where that is
    safe. Elsewhere, and for a few blocks, this process does all; so does a single one, with all cores.

    Args:
        characters: about how many the rows of all sources have.
        processes: how many; by default one for each core.
    """

    def __init__(
        self, sources: Sequence[DataSource], labeller: Labeller, characters: int, processes: int | None = None
    ) -> None:
        self._sources, self._labeller, self._characters = sources, labeller, characters
        self._processes = processes or available_cores()
        self._pool: ProcessPoolExecutor | None = None
        self._slots: Sequence[TableSlot] = ()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool:
            # not killed: this process would wait forever for a result of which a part was sent; waited for only if it
            # was left in the middle, since each process takes a while to return its memory
            self._pool.shutdown(wait=not self._slots, cancel_futures=True)
            self._pool, self._slots = None, ()
            gc.unfreeze()

    def map(self, blocks: Iterable[Block], label: Callable[[], bool], ahead: int = 0) -> Iterator[LabelledBlock]:
        """Yield the result of each of *blocks*, in order; only a few of them are in memory at a time.

        Args:
            label: called before a block is started: whether its rows are labelled, or only checked.
            ahead: blocks that other processes label in advance. If it is 0, this process labels too, while the others
                have enough to do and no result is ready, and a table is valid only until the next is requested.

        Raises:
            DataError: a row is too long, and the policy is to end the run.
            SftError: a process was killed.
        """
        rest = iter(blocks)
        first: list[Block] = []
        if self._characters >= FEW_BYTES or len(first := list(islice(rest, FEW_BLOCKS + 1))) > FEW_BLOCKS:
            self._start(self._processes if ahead else self._processes - 1)
        most = max(ahead, AHEAD * self._processes)
        # blocks that the children have at a time; a stream leaves all to them, since this process trains meanwhile
        room = 0 if not self._pool else most + 1 if ahead else AHEAD * (self._processes - 1)
        waiting: deque[Future[LabelledBlock]] = deque()
        slots, self._slots = self._slots, ()  # after a map that was left in the middle a table may still be written
        numbers: Iterator[int | None] = repeat(None) if ahead or not slots else cycle(range(len(slots)))
        rest = chain(first, rest)
        block, following = next(rest, None), next(rest, None)
        try:
            while block or waiting:
                last = not (following or ahead)  # others would start it only after the blocks that wait for them
                if block and not last and len(waiting) <= most and sum(not each.done() for each in waiting) < room:
                    assert self._pool
                    waiting.append(self._pool.submit(label_in_worker, block, label(), next(numbers)))
                    block, following = following, next(rest, None)
                elif block and len(waiting) <= most and not (waiting and waiting[0].done()):
                    waiting.append(self._label_here(block, label()))
                    block, following = following, next(rest, None)
                else:
                    result = waiting.popleft().result()
                    yield result if result.slot is None else result._replace(table=slots[result.slot].read(), slot=None)
            self._slots = slots
        except MemoryError:
            raise SftError(f"memory ran out while the data was prepared; {_RETRY}") from None
        except BrokenProcessPool:
            reason = "was killed, most likely because memory ran out"  # errors of Python come back as such
            raise SftError(f"a process that prepares the data {reason}; {_RETRY}") from None

    def _start(self, children: int) -> None:
        """Fork *children*, unless they exist or are not allowed."""
        if self._pool or self._processes == 1 or sys.platform != "linux":
            return
        self._labeller.encoder.load(self._characters)
        call_libc("malloc_trim", 0)  # each child copies where it writes: 62 -> 60 µs of CPU per row of all processes
        gc.freeze()  # else the first collection in each process copies all that they share
        self._slots = [TableSlot() for _ in range(AHEAD * self._processes + 1)]  # as many blocks are in progress
        terminate_by_sigkill()
        arguments = (self._sources, self._labeller, self._slots, os.getpid())
        self._pool = ProcessPoolExecutor(children, multiprocessing.get_context("fork"), init_worker, arguments)

    def _label_here(self, block: Block, label: bool) -> Future[LabelledBlock]:
        """Label *block* in this process; its error is raised in its turn, like those of other processes."""
        future: Future[LabelledBlock] = Future()
        try:
            with environment_variable(*SINGLE_THREAD) if self._pool else nullcontext():
                future.set_result(label_block(block, self._sources, self._labeller, label))
        except (SftError, MemoryError) as error:
            future.set_exception(error)
        return future
