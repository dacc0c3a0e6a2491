"""The checkpoints of a folder: listed, rotated, moved."""

from __future__ import annotations

import json

import pytest

from sftcore.checkpoint.store import CheckpointStore
from sftcore.cli.main import main


def write(checkpoints: CheckpointStore, step: int, commit: bool = True) -> None:
    (checkpoints.create_staging(step) / "weights").write_text(f"of {step}")
    if commit:
        checkpoints.commit(step, 1, "now", {})


@pytest.fixture
def checkpoints(tmp_path):
    found = CheckpointStore(tmp_path)
    for step in (2, 4, 10):
        write(found, step)
    return found


def steps(checkpoints: CheckpointStore) -> list[int]:
    return [found.step for found in checkpoints.checkpoints() if not found.problem]


def test_checkpoints_are_listed_newest_first(checkpoints):
    assert steps(checkpoints) == [10, 4, 2]


def test_an_uncommitted_checkpoint_is_not_listed(checkpoints):
    write(checkpoints, 12, commit=False)
    assert steps(checkpoints) == [10, 4, 2]
    checkpoints.remove_leftovers()
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [
        "checkpoint-10",
        "checkpoint-2",
        "checkpoint-4",
    ]


def test_a_damaged_checkpoint_is_listed_with_its_problem(checkpoints):
    (checkpoints.path(10) / "weights").write_text("of 11")
    problems = {found.step: found.problem for found in checkpoints.checkpoints()}
    assert problems == {10: "weights was changed after it was written: its SHA-256 differs", 4: None, 2: None}


def test_a_checkpoint_written_again_replaces_the_first(checkpoints):
    (checkpoints.create_staging(4) / "other").write_text("new")
    checkpoints.commit(4, 1, "now", {})
    assert [path.name for path in checkpoints.path(4).iterdir() if path.name != "manifest.json"] == ["other"]
    assert steps(checkpoints) == [10, 4, 2]


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [
        (None, None, [10, 4, 2]),
        (2, None, [10, 4]),
        (1, None, [10]),
        (2, "checkpoint-2", [10, 2]),
        (2, "checkpoint-10", [10, 4]),
        (1, "checkpoint-2", [10, 2]),
    ],
)
def test_rotation_removes_the_oldest_checkpoints(checkpoints, keep, best, left):
    checkpoints.rotate(keep, best and str(checkpoints.folder / best))
    assert steps(checkpoints) == left


def test_rotation_does_not_count_unusable_checkpoints(checkpoints):
    (checkpoints.path(10) / "manifest.json").unlink()
    checkpoints.rotate(1)
    assert steps(checkpoints) == [4]


def test_checkpoints_after_a_step_are_moved(checkpoints, tmp_path):
    checkpoints.move_later(2)
    assert steps(checkpoints) == [2]
    (earlier,) = (tmp_path / "earlier").iterdir()
    assert steps(CheckpointStore(earlier)) == [10, 4]


def test_the_command_checkpoints_lists_them(checkpoints, capsys):
    assert main(["checkpoints", str(checkpoints.folder)]) == 0
    (checkpoints.path(4) / "weights").write_text("of 5")
    assert main(["checkpoints", str(checkpoints.folder)]) == 0, "only --verify reads the files"
    capsys.readouterr()
    assert main(["checkpoints", str(checkpoints.folder), "--verify"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in lines] == [
        "verified",
        "not complete: weights was changed after it was written: its SHA-256 differs",
        "verified",
    ]
    assert main(["checkpoints", str(checkpoints.folder), "--json"]) == 0
    assert [row["step"] for row in json.loads(capsys.readouterr().out)] == [10, 4, 2]
    assert main(["checkpoints", str(checkpoints.folder / "nowhere")]) == 2


def test_a_file_that_the_manifest_does_not_list_is_damage(checkpoints):
    (checkpoints.path(10) / "adapter_config.json").write_text("{}")
    (found, *_) = checkpoints.checkpoints()
    assert (
        found.problem
        == "adapter_config.json is not in its manifest.json, and could be loaded with it; remove that file"
    )
    assert steps(checkpoints) == [4, 2]


def test_a_checkpoint_whose_name_and_manifest_disagree_is_not_used(checkpoints):
    checkpoints.path(10).rename(checkpoints.path(12))
    (found, *_) = checkpoints.checkpoints()
    assert (found.step, found.problem) == (12, "its manifest is of step 10: it was renamed")
    assert steps(checkpoints) == [4, 2]
