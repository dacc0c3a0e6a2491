"""What this process says: standard output, standard error and logging, all without secrets.

A library, a thread, ``__del__``, a warning, an error that nobody caught: in Python they all write to ``sys.stderr``. So
it is replaced once, as early as possible, and nothing that prints needs to know what a secret is.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO, cast

from sftcore.runtime.redaction import MIN_LENGTH, redact_text


class OutputError(Exception):
    """The output of a command, which is its result, cannot be written."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"the output cannot be written: {getattr(error, 'strerror', None) or error}")
        self.is_broken_pipe = isinstance(error, BrokenPipeError)


class GuardedStream:
    """A text stream whose text is redacted, and whose failures are ignored: a run outlives its log.

    Attributes:
        is_result: what is written is the result of a command, so that a failure raises :class:`OutputError`.
        has_rows: what is written is the user's data, which is not redacted.
    """

    is_result = has_rows = False

    def __init__(self, stream: TextIO | None) -> None:
        self._closed = stream is None  # the system had no such file for this process
        self._stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (as long as the process)
        if isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write *text*; the number of its characters."""
        if self._closed and self.is_result:
            raise OutputError(ValueError("it is closed"))
        self._attempt(self._stream.write, text if self.has_rows or len(text) < MIN_LENGTH else redact_text(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write *lines*, which have their ends."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Write what the stream has collected."""
        self._attempt(self._stream.flush)

    def _attempt(self, function: Callable[..., Any], *arguments: str) -> None:
        try:
            function(*arguments)
        except (OSError, ValueError) as error:  # a full disk, a reader or a terminal that has gone, a closed file
            if self.is_result:
                raise OutputError(error) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_output(is_result: bool = False, has_rows: bool = False) -> None:
    """Have all output of this process and its forks redacted, standard output as these attributes say.

    Where the process was started without standard streams, files that it opens would get their numbers.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(sys, name), GuardedStream):
            setattr(sys, name, GuardedStream(getattr(sys, name)))
    stdout = cast("GuardedStream", sys.stdout)
    stdout.is_result, stdout.has_rows = is_result, has_rows
    logging.setLogRecordFactory(_redacted_log_record)


def discard_output() -> None:
    """Have the system drop what was not written yet, so that the end of the process does not fail of it."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _redacted_log_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    """A record for handlers that write elsewhere, as to a file."""
    record = logging.LogRecord(*args, **kwargs)
    with contextlib.suppress(Exception):  # arguments that do not match: logging reports it
        record.msg, record.args = redact_text(record.getMessage()), ()
    if record.exc_info and record.exc_info[0]:
        record.exc_text = redact_text(logging.Formatter().formatException(record.exc_info))
    return record
