"""The manifest of a checkpoint: what was written, so that what is missing, torn or changed is known."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

NAME = "manifest.json"
"""The file whose presence says that a checkpoint was committed."""

_THREADS = 4
_PIECE = 1 << 20


class File(NamedTuple):
    """What is known of a file: its size in bytes, and the SHA-256 of its content in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All files of a checkpoint, and what wrote them.

    Attributes:
        step: optimizer steps that were done.
        world_size: the processes that trained.
        written: when, in UTC and ISO 8601.
        versions: of the libraries, by name.
        files: by the path below the checkpoint, with slashes.
    """

    step: int
    world_size: int
    written: str
    versions: Mapping[str, str]
    files: Mapping[str, File]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


def seal(folder: Path, step: int, world_size: int, written: str, versions: Mapping[str, str]) -> Manifest:
    """Bring all files of *folder* to the disk, and write its manifest.

    Raises:
        OSError: the disk is full, or gone.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    with ThreadPoolExecutor(_THREADS) as threads:
        files = dict(zip((_name(path, folder) for path in paths), threads.map(_flushed, paths), strict=True))
    manifest = Manifest(step, world_size, written, versions, files)
    content = {**asdict(manifest), "files": {name: file._asdict() for name, file in files.items()}}
    with (folder / NAME).open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(content, indent=1) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    for below in {folder, *(path.parent for path in paths)}:
        flush_folder(below)
    return manifest


def read(folder: Path) -> Manifest:
    """Return the manifest of *folder*.

    Raises:
        ValueError: it has none, or one that cannot be read; the message says which.
    """
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        files = {str(name): File(int(file["size"]), str(file["sha256"])) for name, file in content["files"].items()}
        return Manifest(
            int(content["step"]), int(content["world_size"]), str(content["written"]), dict(content["versions"]), files
        )
    except FileNotFoundError:
        if not folder.is_dir():
            raise ValueError("it is no folder") from None
        raise ValueError(f"it has no {NAME}: it was not written to its end") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its {NAME} cannot be read: {type(error).__name__}: {error}") from None


def verify(folder: Path, manifest: Manifest, content: bool = True) -> str | None:
    """Return what is wrong with the files of *folder*, or None.

    Args:
        content: read all of them; without it only their presence and size are looked at.
    """
    for name, file in manifest.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        if size != file.size:
            return f"{name} has {size:,} bytes, not {file.size:,}"
    if not content:
        return None
    with ThreadPoolExecutor(_THREADS) as threads:
        problems = threads.map(lambda item: _changed(folder, *item), manifest.files.items())
        return next((problem for problem in problems if problem), None)


def flush_file(path: Path) -> None:
    """Bring the content of a file to the disk, and let those read it who may read what is made in its folder.

    safetensors makes files that only their owner may read.

    Raises:
        OSError: the disk is full, or gone.
    """
    mode = path.parent.stat().st_mode & 0o666
    if path.stat().st_mode & 0o777 != mode:
        path.chmod(mode)
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def flush_folder(folder: Path) -> None:
    """Bring the names in *folder* to the disk, where the system has a way to do so."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(number)
    except OSError:  # some network file systems know no fsync of folders
        pass
    finally:
        os.close(number)


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _changed(folder: Path, name: str, file: File) -> str | None:
    try:
        found = _digest(folder / name)
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    return None if found == file.sha256 else f"{name} is not what was written: its SHA-256 is another"


def _flushed(path: Path) -> File:
    flush_file(path)
    return File(path.stat().st_size, _digest(path))


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
