"""What labelled rows are made from, as one key: equal keys, equal rows."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sftcore.data.conversations import Reader
from sftcore.data.sources import Reading
from sftcore.errors import DataError
from sftcore.paths import cache_folder
from sftcore.supervision import Labeller

LIBRARIES = ("transformers", "tokenizers", "jinja2")
"""Libraries that take part in labelling."""

LARGE = 1 << 24
"""Files of so many bytes are read only once for their digest, as long as nobody touches them."""

SETTLED = 2.0
"""How many seconds a file must be old for a later change to show in its times."""


def key(reader: Reader, reading: Reading, files: Sequence[Path], labeller: Labeller) -> str:
    """Return the key of a source's labelled rows: 32 hexadecimal digits.

    It depends on the bytes of the data, the tokenizer, the template and its variables, the options of the source that
    matter, and on the code: sftcore's, that of the format, and the versions of the libraries that take part.
    """
    source = reader.source
    parts = {
        "data": [[file.suffixes[-2:], digest(file)] for file in files] or reading.fingerprint,
        "limit": source.limit,
        "columns": source.columns,
        "format": [type(reader.format).__qualname__, asdict(reader.format), code(type(reader.format).__module__)],
        "policy": asdict(reader.policy),
        "tokenizer": tokenizer_digest(labeller),
        "code": [code("sftcore"), *map(version, LIBRARIES)],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()[:32]


def tokenizer_digest(labeller: Labeller) -> str:
    """Return a digest of the tokenizer, its chat template, and the variables and stops of that."""
    tokenizer = labeller.tokenizer
    fast = getattr(tokenizer, "is_fast", False)
    source = str(tokenizer.chat_template)
    parts: Mapping[str, Any] = {
        "class": [type(tokenizer).__qualname__, code(type(tokenizer).__module__)],
        "tokens": tokenizer.backend_tokenizer.to_str() if fast else [tokenizer.get_vocab(), tokenizer.init_kwargs],
        "split": getattr(tokenizer, "split_special_tokens", False),
        "special": tokenizer.special_tokens_map,
        "template": source,
        "variables": labeller.variables,
        "stops": labeller.stops,
        "day": time.strftime("%Y-%m-%d") if "strftime_now" in source else "",
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()


@cache
def code(name: str) -> str:
    """Return a digest of the code that the Python module *name* belongs to: of its outermost package."""
    module = sys.modules[name.partition(".")[0]]
    if module.__name__ in LIBRARIES:
        return version(module.__name__)
    file = getattr(sys.modules.get(name, module), "__file__", None)
    folders = [Path(folder) for folder in getattr(module, "__path__", [])]
    paths = sorted(path for folder in folders for path in folder.rglob("*.py")) or ([Path(file)] if file else [])
    hashed = hashlib.sha256()
    for path in paths:
        hashed.update(f"{path.name} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return hashed.hexdigest()


def seen(path: Path) -> list[int]:
    """Return what changes when somebody touches the file *path*."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


def check_unchanged(files: Sequence[Path], before: Sequence[list[int]]) -> None:
    """Raise if one of *files* is not what :func:`seen` returned of it *before*.

    Raises:
        DataError: one is not.
    """
    for file, then in zip(files, before, strict=True):
        if seen(file) != then:
            raise DataError(f"data source {file}: was changed while it was read; run again")


def digest(path: Path) -> str:
    """Return the SHA-256 of what is in the file *path*.

    That of a large file is kept, and taken from there while size, times and inode of the file are the same.
    """
    stat, here = path.stat(), seen(path)
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    note = cache_folder() / "digests" / f"{name}.json"
    if stat.st_size >= LARGE:
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            kept = json.loads(note.read_text())
            if kept["seen"] == here:
                return str(kept["digest"])
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hashed.update(block)
    if stat.st_size >= LARGE and time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED:
        with contextlib.suppress(OSError):
            note.parent.mkdir(parents=True, exist_ok=True)
            staged = note.with_suffix(f".{os.getpid()}")
            staged.write_text(json.dumps({"seen": here, "digest": hashed.hexdigest()}))
            staged.replace(note)
    return hashed.hexdigest()
