"""What is seen of a preparation while it runs."""

from __future__ import annotations

import time
from typing import Any

from tqdm.auto import tqdm

from sftcore.runtime.console import count, status

PATIENCE = 10.0
"""Seconds between two lines, where there is no terminal to draw a bar on."""


class Progress:
    """A bar with rows and tokens per second and the time that is left; lines where there is no terminal.

    Whichever process prepares speaks: of the ranks of a run that is not always the first.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._source = ""
        self._rows = self._tokens = 0
        self._share = self._first = self._began = self._told = 0.0

    def begin(self, source: str) -> None:
        """Begin with *source*."""
        self._source = source
        self._rows = self._tokens = 0
        self._share = 0.0
        self._began = self._told = time.monotonic()
        tqdm.monitor_interval = 0  # its thread would be there when processes are forked
        self._bar = tqdm(
            total=1.0,
            desc="preparing",
            bar_format="{desc} {percentage:3.0f}%|{bar}| {postfix}",
            dynamic_ncols=True,
            disable=None,  # shown on a terminal only
            leave=False,
        )

    def done(self, share: float, rows: int, tokens: int) -> None:
        """So many further rows and tokens are labelled, and this *share* of the source is read."""
        now = time.monotonic()
        self._first = self._first if self._rows else share  # what is behind the first was labelled before
        self._rows += rows
        self._tokens += tokens
        left = (now - self._began) * (1 - share) / max(share - self._first, 1e-9)
        told = self._numbers(now) + (f", {left:.0f} s left" if share > self._first else "")
        if not self._bar.disable:
            self._bar.set_postfix_str(told, refresh=False)
            self._bar.update(share - self._share)
        elif now - self._told > PATIENCE:
            self._told = now
            status("preparing", f"{self._source}: {share:.0%}, {told}", all_ranks=True)
        self._share = share

    def end(self, whole: bool) -> None:
        """The source is labelled, or given up."""
        self._bar.close()
        if whole and self._rows:
            numbers = self._numbers(time.monotonic())
            status("prepared", f"{self._source}: {count(self._rows, 'row')}, {numbers}", all_ranks=True)

    def _numbers(self, now: float) -> str:
        taken = max(now - self._began, 1e-9)
        return f"{self._rows / taken:,.0f} rows/s, {self._tokens / taken:,.0f} tokens/s"
