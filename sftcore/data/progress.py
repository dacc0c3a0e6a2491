"""What is seen of a preparation while it runs."""

from __future__ import annotations

import time
from typing import Any

from tqdm.auto import tqdm

from sftcore.report import count, is_main_process, say

PATIENCE = 10.0
"""Seconds between two lines, where there is no terminal to draw a bar on."""


class Progress:
    """A bar with rows and tokens per second and the time that is left; lines where there is no terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._rows = self._tokens = 0
        self._share = self._began = self._told = 0.0

    def begin(self, source: str, share: float = 0.0) -> None:
        """Begin with *source*, of which this *share* was labelled before."""
        self._rows = self._tokens = 0
        self._share = share
        self._began = self._told = time.monotonic()
        self._source = source
        if is_main_process():
            tqdm.monitor_interval = 0  # its thread would be there when processes are forked
            self._bar = tqdm(
                total=1.0,
                initial=share,
                desc="preparing",
                bar_format="{desc} {percentage:3.0f}%|{bar}| {postfix} [{elapsed}<{remaining}]",
                dynamic_ncols=True,
                disable=None,  # shown on a terminal only
                leave=False,
            )

    def done(self, share: float, rows: int, tokens: int) -> None:
        """So many further rows and tokens are labelled, and this *share* of the source is read."""
        self._rows += rows
        self._tokens += tokens
        if self._bar is None:
            return
        if not self._bar.disable:
            self._bar.set_postfix_str(self._numbers(), refresh=False)
            self._bar.update(share - self._share)
        elif time.monotonic() - self._told > PATIENCE:
            self._told = time.monotonic()
            left = (self._told - self._began) * (1 - share) / max(share, 1e-9)
            say("preparing", f"{self._source}: {share:.0%}, {self._numbers()}, {left:.0f} s left")
        self._share = share

    def end(self) -> None:
        """The source is labelled, or given up."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            if self._rows:
                say("prepared", f"{self._source}: {count(self._rows, 'row')}, {self._numbers()}")

    def _numbers(self) -> str:
        taken = max(time.monotonic() - self._began, 1e-9)
        return f"{self._rows / taken:,.0f} rows/s, {self._tokens / taken:,.0f} tokens/s"
