from __future__ import annotations

import pytest

from sftcore.runtime.console import count, is_main_process, status, warn


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
