"""The manifest of a checkpoint: size and SHA-256 of each file, so that missing, torn or changed files are noticed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from sftcore.runtime.file_io import file_sha256, fsync_file, fsync_folder

MANIFEST_FILE = "manifest.json"
"""Written last: a checkpoint without it is not complete."""

_THREADS = 4


@dataclass(frozen=True)
class ManifestEntry:
    """Size of a file in bytes, and SHA-256 of its content in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All files of a checkpoint, and the run that wrote them.

    Attributes:
        step: optimizer steps done.
        world_size: ranks of the run.
        written: time in UTC and ISO 8601.
        versions: of the libraries, by name.
        files: by their path below the checkpoint, with slashes.
    """

    step: int
    world_size: int
    written: str
    versions: Mapping[str, str]
    files: Mapping[str, ManifestEntry]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


def write_manifest(folder: Path, step: int, world_size: int, written: str, versions: Mapping[str, str]) -> None:
    """Flush all files of *folder* to the disk, and write its manifest.

    Raises:
        OSError: a file cannot be written or read.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_FILE)
    with ThreadPoolExecutor(_THREADS) as threads:
        names = (path.relative_to(folder).as_posix() for path in paths)
        files = dict(zip(names, threads.map(_flushed_entry, paths), strict=True))
    content = asdict(Manifest(step, world_size, written, versions, files))
    (folder / MANIFEST_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    fsync_file(folder / MANIFEST_FILE)
    for subfolder in {folder, *(path.parent for path in paths)}:
        fsync_folder(subfolder)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of *folder*.

    Raises:
        ValueError: it does not exist or cannot be read; the message says why.
    """
    try:
        content = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        listed = content["files"].items()
        files = {name: ManifestEntry(int(entry["size"]), str(entry["sha256"])) for name, entry in listed}
        step, world_size = int(content["step"]), int(content["world_size"])
        return Manifest(step, world_size, str(content["written"]), dict(content["versions"]), files)
    except FileNotFoundError:
        if not folder.is_dir():
            raise ValueError("it is not a folder") from None
        raise ValueError(f"it has no {MANIFEST_FILE}: it was not written to its end") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its {MANIFEST_FILE} cannot be read: {type(error).__name__}: {error}") from None


def find_damage(folder: Path, manifest: Manifest, read_content: bool = True) -> str | None:
    """The first difference between the files of *folder* and *manifest*, or None.

    Args:
        read_content: compare the SHA-256 of each file, and not only its size.
    """
    for path in folder.rglob("*"):
        if path.is_file() and (name := path.relative_to(folder).as_posix()) not in {*manifest.files, MANIFEST_FILE}:
            return f"{name} is not in its {MANIFEST_FILE}, and could be loaded with it; remove that file"
    for name, entry in manifest.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        if size != entry.size:
            return f"{name} has {size:,} bytes, not {entry.size:,}"
    if not read_content:
        return None
    with ThreadPoolExecutor(_THREADS) as threads:
        problems = threads.map(lambda item: _content_damage(folder, *item), manifest.files.items())
        return next((problem for problem in problems if problem), None)


def flush_file(path: Path) -> None:
    """Flush a file to the disk, with the permissions that other files in its folder get.

    safetensors creates files that only their owner may read.

    Raises:
        OSError: the file cannot be written.
    """
    mode = path.parent.stat().st_mode & 0o666
    if path.stat().st_mode & 0o777 != mode:
        path.chmod(mode)
    fsync_file(path)


def _flushed_entry(path: Path) -> ManifestEntry:
    flush_file(path)
    return ManifestEntry(path.stat().st_size, file_sha256(path))


def _content_damage(folder: Path, name: str, entry: ManifestEntry) -> str | None:
    try:
        sha256 = file_sha256(folder / name)
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    return None if sha256 == entry.sha256 else f"{name} was changed after it was written: its SHA-256 differs"
