"""The progress bar of a preparation."""

from __future__ import annotations

import time

from tqdm.auto import tqdm

from sftcore.runtime.console import count, status

INTERVAL = 10.0  # seconds between two lines, where there is no terminal for a bar


class PreparationProgress:
    """A bar with rows and tokens per second and the time that is left; lines where there is no terminal.

    The process that prepares prints it, which need not be rank 0.
    """

    def start(self, source: str) -> None:
        """Start with *source*."""
        self._source = source
        self._rows = self._tokens = 0
        self._share = self._first = 0.0
        self._started = self._printed = time.monotonic()
        tqdm.monitor_interval = 0  # its thread must not exist when processes are forked
        form = "{desc} {percentage:3.0f}%|{bar}| {postfix}"
        # disable=None: shown on a terminal only
        self._bar = tqdm(total=1.0, desc="preparing", bar_format=form, dynamic_ncols=True, disable=None, leave=False)

    def update(self, share: float, rows: int, tokens: int) -> None:
        """Count further rows and tokens, with which this *share* of the source is read."""
        self._first = self._first if self._rows else share  # what is before the first was labelled earlier
        self._rows += rows
        self._tokens += tokens
        now = time.monotonic()
        left = (now - self._started) * (1 - share) / max(share - self._first, 1e-9)
        text = self._rates() + (f", {left:.0f} s left" if share > self._first else "")
        if not self._bar.disable:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(share - self._share)
        elif now - self._printed > INTERVAL:
            self._printed = now
            status("preparing", f"{self._source}: {share:.0%}, {text}", all_ranks=True)
        self._share = share

    def finish(self, complete: bool) -> None:
        """End with the source, *complete* or not."""
        self._bar.close()
        if complete and self._rows:
            status("prepared", f"{self._source}: {count(self._rows, 'row')}, {self._rates()}", all_ranks=True)

    def _rates(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        return f"{self._rows / seconds:,.0f} rows/s, {self._tokens / seconds:,.0f} tokens/s"
