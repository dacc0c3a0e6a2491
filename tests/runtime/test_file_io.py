"""Locks between processes, and writes that are whole or not there."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from pathlib import Path

import pytest

from sftcore.runtime import file_io
from sftcore.runtime.file_io import FileLock, file_sha256, fsync_file, fsync_folder, write_atomically


def test_a_file_lock_is_exclusive_or_shared(tmp_path: Path) -> None:
    first, second, third = (FileLock(tmp_path / "a.lock") for _ in range(3))
    assert first.acquire(shared=True)
    assert second.acquire(shared=True, blocking=False)
    assert not third.acquire(blocking=False)
    second.release()
    assert first.acquire(blocking=False)  # in place of the shared one
    assert not third.acquire(shared=True, blocking=False)
    first.release()
    assert third.acquire(blocking=False)


def test_the_file_lock_of_a_killed_process_is_released(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    acquired = fork.Event()

    def hold() -> None:
        lock = FileLock(tmp_path / "a.lock")
        lock.acquire()
        acquired.set()
        fork.Event().wait()

    process = fork.Process(target=hold, daemon=True)
    process.start()
    assert acquired.wait(20)
    lock = FileLock(tmp_path / "a.lock")
    assert not lock.acquire(blocking=False)
    process.kill()
    assert lock.acquire()
    process.join()


@pytest.mark.parametrize("number", [95, 37, 30, 13])
def test_a_file_lock_is_always_acquired_where_the_file_system_has_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(file_io.fcntl, "flock", refuse)
    lock = FileLock(tmp_path / "a.lock")
    assert lock.works
    assert lock.acquire(blocking=False)
    assert not lock.works


def test_a_file_lock_reports_other_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileLock(tmp_path / "no" / "a.lock").acquire()


def test_an_atomic_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "löng")
    assert path.read_bytes() == "löng".encode()

    def fill_the_disk(self: Path, text: str, **options: object) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert path.read_bytes() == "löng".encode()


def test_sha256_and_fsync_of_a_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    fsync_file(tmp_path / "a")
    fsync_folder(tmp_path)
    fsync_folder(tmp_path / "none")


def test_a_lock_dies_with_its_process_whatever_it_forked(tmp_path: Path) -> None:
    """Data workers outlive a run that is killed."""
    fork = multiprocessing.get_context("fork")
    ready, end = fork.Event(), fork.Event()

    def hold() -> None:
        lock = FileLock(tmp_path / "a.lock")
        lock.acquire()
        if os.fork() == 0:
            ready.set()
            end.wait(60)
            os._exit(0)
        fork.Event().wait()

    process = fork.Process(target=hold)
    process.start()
    assert ready.wait(20)
    assert not FileLock(tmp_path / "a.lock").acquire(blocking=False)
    process.kill()
    process.join()
    assert FileLock(tmp_path / "a.lock").acquire(blocking=False)
    end.set()
