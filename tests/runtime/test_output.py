"""What a process says has no secrets, wherever it comes from, and a stream that fails ends no run."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import threading
import traceback

import pytest

from sftcore.runtime import redaction
from sftcore.runtime.output import GuardedStream, OutputError, guard_output
from sftcore.runtime.redaction import REDACTED, register_secrets

SECRET = "Pelican7Quay"


@pytest.fixture(autouse=True)
def guarded(monkeypatch, capsys):
    """A secret that nothing recognizes by its shape, and streams that a test may guard."""
    monkeypatch.setattr(redaction, "_known", set())
    redaction._known_forms.cache_clear()
    factory = logging.getLogRecordFactory()
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    register_secrets({"api_key": SECRET})
    yield
    logging.setLogRecordFactory(factory)
    redaction._known_forms.cache_clear()


def failing():
    raise RuntimeError(f"no login with {SECRET}")


class Dying:
    def __del__(self):
        failing()


def in_a_thread():
    thread = threading.Thread(target=failing)
    thread.start()
    thread.join()


def in_a_log():
    logger = logging.getLogger("elsewhere")
    logger.addHandler(handler := logging.StreamHandler(sys.stderr))
    try:
        failing()
    except RuntimeError:
        logger.exception("it failed for %s", SECRET)
    logger.removeHandler(handler)


def uncaught():
    try:
        failing()
    except RuntimeError as error:
        error.add_note(f"with {SECRET}")
        sys.__excepthook__(type(error), error, error.__traceback__)


def grouped():
    try:
        raise ExceptionGroup("both", [KeyError(SECRET), ValueError(repr(SECRET.encode()))])
    except ExceptionGroup:
        traceback.print_exc()


SAYING = {
    "print": lambda: print("it is", SECRET, file=sys.stderr),
    "standard output": lambda: print(SECRET),
    "lines": lambda: sys.stderr.writelines(["it is ", SECRET, "\n"]),
    "a log": in_a_log,
    "a thread": in_a_thread,
    "__del__": lambda: Dying() and None,
    "an uncaught error": uncaught,
    "a group of errors": grouped,
}


@pytest.mark.parametrize("say", SAYING.values(), ids=SAYING)
def test_a_secret_is_redacted_in_all_that_is_printed(say, capsys, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # pytest has its own
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    guard_output()
    say()
    said = "".join(capsys.readouterr())
    assert REDACTED in said
    assert SECRET not in said


def test_a_log_that_goes_to_a_file_has_no_secret(tmp_path):
    guard_output()
    logger = logging.getLogger("elsewhere")
    logger.addHandler(handler := logging.FileHandler(tmp_path / "log"))
    try:
        failing()
    except RuntimeError:
        logger.exception("no answer from %s", "https://me:hunter2@host/")
    logger.removeHandler(handler)
    handler.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == f"no answer from https://{REDACTED}@host/"
    assert lines[-1] == f"RuntimeError: no login with {REDACTED}"


def test_rows_are_printed_as_they_are(capsys):
    guard_output(has_rows=True)
    print(SECRET)
    assert capsys.readouterr().out == f"{SECRET}\n"
    guard_output()
    print(SECRET)
    assert capsys.readouterr().out == f"{REDACTED}\n"


def test_a_stream_is_guarded_once(capsys):
    guard_output()
    before = sys.stderr
    guard_output()
    assert sys.stderr is before
    assert not isinstance(sys.stderr._stream, GuardedStream)


def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


def closed_file():
    stream = io.StringIO()
    stream.close()
    return stream


BROKEN = {
    "a full disk": (lambda: open("/dev/full", "w"), "No space left on device"),  # noqa: SIM115
    "a reader that has gone": (broken_pipe, "Broken pipe"),
    "a closed file": (closed_file, "I/O operation on closed file"),
    "no stream": (lambda: None, "it is closed"),
}


@pytest.mark.parametrize(("make", "problem"), BROKEN.values(), ids=BROKEN)
def test_a_stream_that_fails_matters_only_where_it_is_the_result(make, problem):
    stream = GuardedStream(make())
    assert stream.write("step 1\n") == 7
    stream.flush()
    stream.is_result = True
    with pytest.raises(OutputError, match=problem):
        print("a table", file=stream, flush=True)
    stream.is_result = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        from sftcore.runtime.output import discard_output

        discard_output()


def test_other_attributes_are_those_of_the_stream(capsys):
    guard_output()
    assert sys.stderr.isatty() is False
    assert sys.stdout.encoding.lower() == "utf-8"
    with pytest.raises(AttributeError):
        sys.stdout.no_such_attribute  # noqa: B018


def test_characters_that_a_terminal_does_not_have_are_escaped(tmp_path):
    with (tmp_path / "out").open("w", encoding="ascii") as file:
        print("schön 学", file=GuardedStream(file))
    assert (tmp_path / "out").read_text() == "sch\\xf6n \\u5b66\n"


WITHOUT_STREAMS = """
import os, sys
from sftcore.runtime.output import guard_output
guard_output()
print("out"), print("err", file=sys.stderr)
file = open(sys.argv[1], "w")
os.write(1, b"into a file that is not the log"), os.write(2, b"neither")
print(file.fileno() > 2, os.get_inheritable(2), file=file)
"""


def test_files_do_not_get_the_numbers_of_streams_that_are_closed(tmp_path):
    """What a C library prints would be written into a checkpoint."""
    path = tmp_path / "checkpoint"
    command = [sys.executable, "-c", WITHOUT_STREAMS, str(path)]
    closed = subprocess.run(["bash", "-c", '"$@" <&- >&- 2>&-', "bash", *command], check=False)
    assert closed.returncode == 0
    assert path.read_text() == "True True\n"
