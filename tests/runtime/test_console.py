from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from sftcore.runtime.console import count, is_main_process, status, warn, write_error_reason


def test_status_prints_aligned_lines(capsys: pytest.CaptureFixture[str]) -> None:
    status("model", "first\nsecond")
    warn("careful")
    status("empty", "")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "     model  first\n            second\n   warning  careful\n     empty  \n"


@pytest.mark.parametrize(("rank", "speaks"), [(None, True), ("0", True), ("1", False)])
def test_status_prints_on_rank_0_only(
    rank: str | None, speaks: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    status("topic", "text")
    assert is_main_process() is speaks
    assert bool(capsys.readouterr().err) is speaks


@pytest.mark.parametrize(("number", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1234, "1,234 rows")])
def test_count(number: int, text: str) -> None:
    assert count(number, "row") == text


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {Path("/full"): 4096, tmp_path: 10**9, Path("/tmp-full"): 100}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[Path(path)]))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/tmp-full")
    full = OSError(errno.ENOSPC, "No space left on device")
    assert write_error_reason(tmp_path, full) == "No space left on device; 100 bytes are free in /tmp-full"
    free[Path("/tmp-full")] = 10**9
    assert write_error_reason(tmp_path, full) == "No space left on device; 1.0 GB are free there"
    full.filename = "/full/a.arrow"
    assert write_error_reason(tmp_path, full) == "No space left on device; 4.1 kB are free in /full"
    full.filename = str(tmp_path / "a")
    assert write_error_reason(tmp_path, full) == "No space left on device; 1.0 GB are free there"
