"""``sft prepare`` and ``sft cache``; a run prepares its data once, before its ranks wait for each other."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time

import pytest

from sftcore.cli.main import main
from sftcore.data.preparation.progress import PreparationProgress
from sftcore.data.preparation.source_cache import Cache

LOGGED_RUN = """
import os, sys
from sftcore.data.preparation import pool
from sftcore.runs import preparation

def log(*words):
    with open({log!r}, "a") as file:
        print(os.environ.get("RANK", "alone"), *words, file=file)

prepare, label_block = preparation.prepare, pool.label_block

def logged_prepare(*args):
    import torch
    log("prepares", torch.distributed.is_initialized())
    return prepare(*args)

def logged_label_block(*args):
    log("labels")
    return label_block(*args)

preparation.prepare, pool.label_block = logged_prepare, logged_label_block
from sftcore.cli.main import main
sys.exit(main())
"""


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache of its own for prepared data."""
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "gguf").symlink_to(os.path.join(os.environ["SFTCORE_CACHE"], "gguf"))
    monkeypatch.setenv("SFTCORE_CACHE", str(folder))
    return folder


def logged(sft, launcher):
    script = sft.folder / "logged_run.py"
    log = sft.folder / "log"
    script.write_text(LOGGED_RUN.format(log=str(log)))
    sft.train_apart(launcher=(*launcher, str(script)), OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    return sorted(log.read_text().splitlines())


@pytest.mark.slow
def test_one_rank_of_a_node_labels_the_data_before_ranks_wait_for_each_other(sft, cached):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    lines = logged(sft, launcher)
    assert [line for line in lines if "prepares" in line] == ["0 prepares False", "1 prepares False"]
    assert len([line for line in lines if "labels" in line]) == 1


@pytest.mark.slow
def test_the_launcher_labels_the_data_and_its_ranks_find_it_in_the_cache(sft, cached):
    sft.config["backend"] = {"name": "torchrun", "nproc_per_node": 2}
    done = sft.run(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    assert done.code == 0, done.said
    assert done.said.count("  prepared  ") == 1
    assert done.said.index("  prepared  ") < done.said.index("    launch  ")


def test_sft_prepare_fills_the_cache_for_a_run(sft, cached, capsys):
    sft.config["data"] |= {"packing": True, "max_length": 200}
    assert main(["prepare", "--config", str(sft.write())]) == 0
    said = capsys.readouterr().err
    [item] = Cache().entries()
    for line in ("  prepared  ", "40 examples packed into ", "40 rows read: 40 trained", f"cached  {item.folder}"):
        assert line in said
    assert not sft.out.exists()
    assert "  prepared  " not in sft.train()


def test_sft_prepare_reports_a_malformed_row(sft, cached, capsys):
    sft.config["data"]["train"] = str(sft.folder / "bad.jsonl")
    (sft.folder / "bad.jsonl").write_text('{"messages": []}\n')
    assert main(["prepare", "--config", str(sft.write()), "data.train.format=messages"]) == 2
    assert "bad.jsonl:1: 'messages' is empty" in capsys.readouterr().err


def test_sft_cache_lists_and_cleans_the_cache(sft, cached, capsys, rows):
    assert main(["prepare", "--config", str(sft.write())]) == 0
    capsys.readouterr()
    assert main(["cache", "list"]) == 0
    listed = capsys.readouterr().out
    assert f"40 rows  {rows}" in listed
    assert main(["cache", "list", "--json"]) == 0
    [item] = json.loads(capsys.readouterr().out)
    assert (item["rows"], item["source"], item["complete"]) == (40, str(rows), True)
    assert main(["cache", "clean", "--unused", "1"]) == 0
    assert capsys.readouterr().out.startswith("0 bytes freed")
    assert main(["cache", "clean"]) == 0
    assert f"freed in {cached}/data" in capsys.readouterr().out
    assert Cache().entries() == []
    assert main(["cache", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_cache_folder_that_cannot_be_created_is_an_error(sft, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SFTCORE_CACHE", str(tmp_path / "file"))
    assert main(["cache", "list"]) == 2
    assert "cannot be created: Not a directory; set SFTCORE_CACHE" in capsys.readouterr().err


def test_progress_is_printed_as_lines_without_a_terminal(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    progress = PreparationProgress()
    progress.start("rows.jsonl")
    for step in range(1, 4):
        now[0] = 6.0 * step
        progress.update(step / 4, 600, 6000)
    progress.finish(complete=True)
    said = capsys.readouterr().err
    assert " preparing  rows.jsonl: 50%, 100 rows/s, 1,000 tokens/s, 24 s left" in said
    assert "  prepared  rows.jsonl: 1,800 rows, 100 rows/s, 1,000 tokens/s" in said
    assert said.count("left") == 1


def test_a_question_that_the_template_rejects_is_reported_before_the_data_is_prepared(sft, tmp_path):
    loop = "{% if messages[0].content == 'Why?' %}{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}"
    folder = tmp_path / "own"
    shutil.copytree(sft.config["model"]["name_or_path"], folder)
    template = folder / "chat_template.jinja"
    template.write_text(loop + "{% endfor %}{% endif %}" + template.read_text())
    sft.config["model"]["name_or_path"] = str(folder)
    sft.config["ask"] = {"questions": ["Who?", "Why?"], "max_new_tokens": 2}
    done = sft.run_here()
    assert done.code == 2
    assert "ask.questions.1: the chat template cannot render it" in done.said
    assert "rows.jsonl" not in done.said
