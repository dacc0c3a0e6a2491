"""Where a path in a configuration points to, and where sftcore keeps its own files."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from sftcore.core.errors import ConfigError
from sftcore.runtime.console import utc_now

PACKAGE = "package:"
"""Prefix of a file inside an installed Python package: ``package:NAME/inner/file``."""


def locate(text: str, folder: Path | None = None) -> Path:
    """Return the path that *text* stands for; it need not exist.

    ``package:NAME/file`` is looked up in the installed package NAME (which is not imported).
    A relative path is tried from the working directory, then from *folder*, the configuration's own.

    Raises:
        ConfigError: the package is not installed.
    """
    if text.startswith(PACKAGE):
        name, _, inner = text.removeprefix(PACKAGE).partition("/")
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
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
    """Return where sftcore keeps what it can make again: ``$SFTCORE_CACHE``, or ``~/.cache/sftcore``."""
    return Path(os.environ.get("SFTCORE_CACHE") or Path.home() / ".cache" / "sftcore")


def earlier_folder(folder: Path) -> Path:
    """Folder below *folder* for what an earlier run left there; it need not exist."""
    return folder / "earlier" / utc_now().replace(":", "-")
