"""The manifest of a checkpoint: complete, damaged or missing."""

from __future__ import annotations

import json

import pytest

from sftcore.checkpoint import manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "a.bin").write_bytes(b"abc" * 1000)
    (tmp_path / "below/b.json").write_text("{}")
    manifest.write_manifest(tmp_path, 3, 2, "2026-01-01T00:00:00+00:00", {"torch": "2"})
    return tmp_path


def test_a_checkpoint_with_a_manifest_is_complete(folder):
    found = manifest.read_manifest(folder)
    assert (found.step, found.world_size, found.versions, found.size) == (3, 2, {"torch": "2"}, 3002)
    assert set(found.files) == {"a.bin", "below/b.json"}
    assert manifest.find_damage(folder, found) is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "a.bin").unlink(), "a.bin cannot be read: No such file"),
        (lambda folder: (folder / "a.bin").write_bytes(b"abc" * 999), "a.bin has 2,997 bytes, not 3,000"),
        (lambda folder: (folder / "below/b.json").write_text("[]"), "below/b.json was changed after it was written"),
    ],
    ids=["missing", "torn", "changed"],
)
def test_damage_to_a_checkpoint_file_is_reported(folder, damage, message):
    damage(folder)
    assert manifest.find_damage(folder, manifest.read_manifest(folder)).startswith(message)


def test_a_changed_file_of_the_same_size_is_only_seen_by_reading_it(folder):
    (folder / "below/b.json").write_text("[]")
    assert manifest.find_damage(folder, manifest.read_manifest(folder), read_content=False) is None


NO_SIZE = '{"step": 1, "world_size": 1, "written": "", "versions": {}, "files": {"a": {"size": "x", "sha256": ""}}}'
NO_STEP = '{"step": "x", "world_size": 1, "written": "", "versions": {}, "files": {}}'


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"files": 3}', '{"files": {"a": {}}}', NO_SIZE, NO_STEP])
def test_a_missing_or_invalid_manifest_is_an_error(folder, content):
    path = folder / manifest.MANIFEST_FILE
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match="cannot be read" if content is not None else "not written to its end"):
        manifest.read_manifest(folder)


def test_a_manifest_may_have_further_keys(folder):
    path = folder / manifest.MANIFEST_FILE
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "further": 1}))
    assert manifest.read_manifest(folder).step == content["step"]


def test_a_manifest_is_json(folder):
    assert json.loads((folder / manifest.MANIFEST_FILE).read_text())["files"]["below/b.json"]["size"] == 2
