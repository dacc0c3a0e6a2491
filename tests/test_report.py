from __future__ import annotations

import pytest

from sftcore.report import count, is_main_process, say, warn


def test_one_aligned_line_per_fact(capsys: pytest.CaptureFixture[str]) -> None:
    say("model", "first\nsecond")
    warn("careful")
    say("empty", "")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "     model  first\n            second\n   warning  careful\n     empty  \n"


@pytest.mark.parametrize(("rank", "speaks"), [(None, True), ("0", True), ("1", False)])
def test_only_rank_0_speaks(
    rank: str | None, speaks: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    say("topic", "text")
    assert is_main_process() is speaks
    assert bool(capsys.readouterr().err) is speaks


@pytest.mark.parametrize(("number", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1234, "1,234 rows")])
def test_count(number: int, text: str) -> None:
    assert count(number, "row") == text
