"""What ``sft preview`` takes of the training data."""

from __future__ import annotations

import json

import pytest

from sftcore.cli.main import main
from sftcore.config.document import Document
from sftcore.config.loader import load_config
from sftcore.core.errors import DataError
from sftcore.core.registry import Registry
from sftcore.inspection.samples import samples

REGISTRY = Registry.discover()


def row(question):
    return {"prompt": question, "output": "yes"}


@pytest.fixture
def look(tiny, tmp_path):
    (tmp_path / "t.jsonl").write_text("\n".join(["{", *(json.dumps(row(f"q{number}")) for number in range(9)), "[]"]))

    def samples_of(number=5, place=None, more=None, **options):
        source = {"path": str(tmp_path / "t.jsonl"), "format": "qa", "columns": {"prompt": "input"}, **options}
        data = {"train": source, **(more or {})}
        document = Document({"model": {"name_or_path": str(tiny)}, "method": "full", "data": data})
        return samples(
            load_config(document, REGISTRY, {}), REGISTRY, number, place and f"{tmp_path / 't.jsonl'}:{place}"
        )

    return samples_of


def lines(found):
    return [origin.line for _, origin in found.shown]


def test_bad_rows_are_told_where_a_run_would_go_on_without_them(look):
    with pytest.raises(DataError, match=r"1 row cannot be used.*\n  .*t.jsonl:1: not valid JSON"):
        look()
    found = look(more={"max_bad_rows": 0.01})
    assert lines(found) == [2, 3, 4, 5]
    assert [problem.partition(": ")[0].rpartition(":")[2] for problem in found.bad] == ["1"]
    assert len(look(99, more={"max_bad_rows": 1}).bad) == 2


def test_a_row_by_its_place_needs_no_others(look):
    assert lines(look(place=4)) == [4]
    with pytest.raises(DataError, match=r"t.jsonl:11: expected one JSON object, not a list"):
        look(place=11, more={"max_bad_rows": 5})


def test_the_limit_of_a_source_holds(look):
    assert lines(look(limit=3, more={"max_bad_rows": 5})) == [2, 3]
    with pytest.raises(DataError, match=r"the training data has no such row within its limit \(sources: "):
        look(place=5, limit=3)
    with pytest.raises(DataError, match=r"the training data has no such row \(sources: "):
        look(place=99)


def test_where_no_row_gives_an_example_more_are_suggested(sft, capsys, monkeypatch):
    monkeypatch.chdir(sft.folder)
    monkeypatch.setattr("sftcore.runtime.console.quiet_libraries", lambda: None)
    rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "train": False}]}] * 3
    (sft.folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sft.config["data"]["train"] = "t.jsonl"
    assert main(["preview", "--config", str(sft.write()), "-n", "2"]) == 2
    assert capsys.readouterr().err.endswith("sft: error: none of these rows gives an example; try more with -n\n")
