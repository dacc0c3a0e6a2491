"""Which rows of the training data ``sft preview`` shows."""

from __future__ import annotations

import json

import pytest

from sftcore.cli.main import main
from sftcore.config.document import Document
from sftcore.config.loader import load_config
from sftcore.core.errors import DataError
from sftcore.core.registry import Registry
from sftcore.inspection.preview_rows import label_preview_rows

REGISTRY = Registry.discover()


def row(question):
    return {"prompt": question, "output": "yes"}


@pytest.fixture
def preview_rows(tiny, tmp_path):
    (tmp_path / "t.jsonl").write_text("\n".join(["{", *(json.dumps(row(f"q{number}")) for number in range(9)), "[]"]))

    def rows_of(number=5, place=None, more=None, **options):
        source = {"path": str(tmp_path / "t.jsonl"), "format": "qa", "columns": {"prompt": "input"}, **options}
        data = {"train": source, **(more or {})}
        document = Document({"model": {"name_or_path": str(tiny)}, "method": "full", "data": data})
        return label_preview_rows(
            load_config(document, REGISTRY, {}), REGISTRY, number, place and f"{tmp_path / 't.jsonl'}:{place}"
        )

    return rows_of


def lines(rows):
    return [origin.line for _, origin in rows.examples]


def test_malformed_rows_are_reported_where_a_run_would_skip_them(preview_rows):
    with pytest.raises(DataError, match=r"1 row cannot be used.*\n  .*t.jsonl:1: not valid JSON"):
        preview_rows()
    rows = preview_rows(more={"max_bad_rows": 0.01})
    assert lines(rows) == [2, 3, 4, 5]
    assert [problem.split(": ")[1].rpartition(":")[2] for problem in rows.skipped] == ["1"]
    assert len(preview_rows(99, more={"max_bad_rows": 1}).skipped) == 2


def test_preview_of_one_source_line_reads_no_other_row(preview_rows):
    assert lines(preview_rows(place=4)) == [4]
    with pytest.raises(DataError, match=r"t.jsonl:11: expected one JSON object, not a list"):
        preview_rows(place=11, more={"max_bad_rows": 5})


def test_preview_respects_the_limit_of_a_source(preview_rows):
    assert lines(preview_rows(limit=3, more={"max_bad_rows": 5})) == [2, 3]
    with pytest.raises(DataError, match=r"the training data has no such row within its limit \(sources: "):
        preview_rows(place=5, limit=3)
    with pytest.raises(DataError, match=r"the training data has no such row \(sources: "):
        preview_rows(place=99)


def test_preview_without_any_example_suggests_more_rows(sft, capsys, monkeypatch):
    monkeypatch.chdir(sft.folder)
    monkeypatch.setattr("sftcore.runtime.library_warnings.report_library_warnings", lambda: None)
    rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "train": False}]}] * 3
    (sft.folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sft.config["data"]["train"] = "t.jsonl"
    assert main(["preview", "--config", str(sft.write()), "-n", "2"]) == 2
    assert capsys.readouterr().err.endswith("sft: error: none of these rows gives an example; try more with -n\n")
