"""Paths in a configuration, and the folders of sftcore's own files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from sftcore.core.errors import ConfigError
from sftcore.core.registry import find_module
from sftcore.runtime.console import utc_now

PACKAGE = "package:"
"""Prefix of a file inside an installed Python package: ``package:NAME/inner/file``."""


def locate(text: str, folder: Path | None = None) -> Path:
    """The path that *text* names; it need not exist.

    ``package:NAME/file`` is a file of the installed package NAME, which is not imported. A relative path is looked up
    in the working directory, then in *folder*, that of the configuration.

    Raises:
        ConfigError: the package is not installed.
    """
    if text.startswith(PACKAGE):
        name, _, inner = text.removeprefix(PACKAGE).partition("/")
        spec = find_module(name)
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(
                f"{text}: the Python package '{name}' is not installed (pip install {name.replace('_', '-')})"
            )
        return Path(next(iter(spec.submodule_search_locations)), inner)
    path = Path(text).expanduser()
    if folder is not None and not path.is_absolute() and not path.exists() and (folder / path).exists():
        return folder / path
    return path


def cache_folder() -> Path:
    """Folder of files that sftcore can recreate: ``$SFTCORE_CACHE``, else ``sftcore`` in ``$XDG_CACHE_HOME``."""
    if own := os.environ.get("SFTCORE_CACHE"):
        return Path(own)
    shared = Path(os.environ.get("XDG_CACHE_HOME") or "")  # relative ones are invalid, and to be ignored
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "sftcore"


def move_to_earlier(folder: Path, paths: Iterable[Path], copied: Path | None = None) -> None:
    """Move those of *paths* that exist, files of an earlier run, into a new folder below ``earlier/`` in *folder*.

    The file *copied* is copied there first, where it is to be replaced by one that is complete.

    Raises:
        OSError: one cannot be moved or copied.
    """
    target = folder / "earlier" / utc_now().replace(":", "-")
    if copied and copied.exists():
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy2(copied, target)
    for path in [path for path in paths if os.path.lexists(path)]:
        target.mkdir(parents=True, exist_ok=True)
        path.rename(target / path.name)
