"""The cache of models from GGUF files."""

from __future__ import annotations

from pathlib import Path

import pytest

from sftcore.models import gguf


def test_a_changed_file_of_a_cached_model_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Path] = []

    def dequantize(path: Path, folder: Path) -> None:
        made.append(path)
        folder.mkdir()
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_text(f"{{}} {name}")

    monkeypatch.setattr(gguf, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(gguf, "_dequantize", dequantize)
    source = tmp_path / "a.gguf"
    source.write_bytes(b"GGUF")
    folder = gguf.convert_gguf(source)
    assert gguf.convert_gguf(source) == folder
    assert len(made) == 1
    (folder / "model.safetensors").write_text("changed")
    assert gguf.convert_gguf(source) == folder
    assert (len(made), (folder / "model.safetensors").read_text()) == (2, "{} model.safetensors")
    assert "is damaged, and is de-quantized again" in capsys.readouterr().err
