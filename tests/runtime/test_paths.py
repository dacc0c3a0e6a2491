from __future__ import annotations

from pathlib import Path

import pytest
import sftcore_templates

from sftcore import ConfigError
from sftcore.runtime.paths import cache_folder, locate


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration's folder, with `both` and `here`; the working directory has `both` and `cwd`."""
    for place, names in (("work", ("both", "cwd")), ("config", ("both", "here"))):
        (tmp_path / place).mkdir()
        for name in names:
            (tmp_path / place / name).touch()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "config"


def test_a_relative_path_is_looked_up_in_the_working_directory_then_beside_the_configuration(folder: Path) -> None:
    assert locate("both", folder) == Path("both")
    assert locate("cwd", folder) == Path("cwd")
    assert locate("here", folder) == folder / "here"
    assert locate("neither", folder) == Path("neither")
    assert locate("here") == Path("here")


def test_absolute_paths_and_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert locate("/here", folder) == Path("/here")
    assert locate("~/x", folder) == Path("/home/someone/x")


def test_a_file_of_a_package() -> None:
    home = Path(str(sftcore_templates.__file__)).parent
    assert locate("package:sftcore_templates/a/b.json") == home / "a" / "b.json"
    assert locate("package:sftcore_templates") == home


@pytest.mark.parametrize("name", ["not_installed", "not.installed", "json.decoder", "", ".x", "sys"])
def test_a_package_that_is_not_installed(name: str) -> None:
    with pytest.raises(ConfigError, match=f"the Python package '{name}' is not installed"):
        locate(f"package:{name}/file")


def test_the_hint_spells_the_package_name_as_pip_does() -> None:
    with pytest.raises(ConfigError, match="pip install llm-nope"):
        locate("package:llm_nope/x.gguf")


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SFTCORE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache/sftcore"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache/sftcore"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/sftcore")
    monkeypatch.setenv("SFTCORE_CACHE", "/own")
    assert cache_folder() == Path("/own")
