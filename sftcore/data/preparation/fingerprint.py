"""What labelled rows are made from, as one key: equal keys, equal rows."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from sftcore.core.errors import DataError
from sftcore.data.sources.compression import COMPRESSED, plain_suffix
from sftcore.data.sources.files import Reading
from sftcore.data.sources.formats import Reader
from sftcore.labelling import Labeller
from sftcore.labelling.rendering.environment import NOW
from sftcore.runtime.paths import cache_folder

LIBRARIES = ("transformers", "tokenizers", "jinja2", "pyarrow", "datasets", "sentencepiece", "tiktoken")
"""Libraries that take part in labelling, or in reading."""

REMOTE = "transformers_modules"
"""The package that transformers puts the code of models in."""

SMALL = 1 << 20
"""Files of a package that are no source count as its code up to so many bytes."""

_STATED = re.compile(r"^Version: (.+)$", re.MULTILINE)

_CLOCK = re.compile(r"%-?[HIMSpfXcsTRrZz]")
"""What asks for the time of the day in a format of it."""

LARGE = 1 << 24
"""Files of so many bytes are read only once for their digest, as long as nobody touches them."""

SETTLED = 2.0
"""How many seconds a file must be old for a later change to show in its times."""


def key(reader: Reader, reading: Reading, files: Sequence[Path], digests: Iterable[str], serving: str) -> str:
    """Return the key of a source's labelled rows: 32 hexadecimal digits.

    It depends on the bytes of the data, the options of the source that matter, and on the code: sftcore's, that of the
    format, and the versions of the libraries that take part.

    Args:
        digests: of the *files*; they may take a while, and are asked for last.
        serving: of the tokenizer and its chat template, as :func:`serving_digest` has it.
    """
    source, form = reader.source, type(reader.format)
    ours = [code("sftcore"), platform.python_version(), *map(_version, LIBRARIES)]
    return _digest(
        {
            "data": [[_kind(file), found] for file, found in zip(files, digests, strict=True)] or reading.fingerprint,
            "limit": source.limit,
            "columns": sorted(source.columns.items()),
            "format": [form.__qualname__, asdict(reader.format), [code(each.__module__) for each in _classes(form)]],
            "policy": asdict(reader.policy),
            "serving": serving,
            "code": ours,
        }
    )


def serving_digest(labeller: Labeller) -> str:
    """Return a digest of the tokenizer, its chat template, and the variables and stops of that."""
    tokenizer = labeller.tokenizer
    source = str(tokenizer.chat_template)
    fast = getattr(tokenizer, "is_fast", False)
    day = "%Y-%m-%d" if "strftime_now" in source else ""
    return _digest(
        {
            "class": [type(tokenizer).__qualname__, [code(each.__module__) for each in _classes(type(tokenizer))]],
            "tokens": hashlib.sha256(labeller.serialized.encode()).hexdigest() if fast else _saved(tokenizer),
            "split": getattr(tokenizer, "split_special_tokens", False),
            "special": tokenizer.special_tokens_map,
            "template": source,
            "variables": list(labeller.variables.items()),
            "stops": labeller.stops,
            "now": NOW.isoformat() if _CLOCK.search(source) and day else NOW.strftime(day),
        }
    )


def _digest(parts: Mapping[str, Any]) -> str:
    """Return a digest of *parts*; where a mapping is in them, its order matters, as it may to a template."""
    return hashlib.sha256(json.dumps(parts, default=repr).encode()).hexdigest()[:32]


def _kind(file: Path) -> list[str]:
    """Return what the name of *file* says of its content."""
    return [plain_suffix(file), file.suffix if file.suffix in COMPRESSED else ""]


def _classes(cls: type) -> list[type]:
    """Return *cls* and its bases, without those that everybody has."""
    return [each for each in cls.__mro__ if each.__module__.partition(".")[0] not in ("builtins", "typing", "sftcore")]


def _saved(tokenizer: Any) -> list[list[str]]:
    """Return the files of *tokenizer*, one that is written in Python, each with its digest."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in sorted(Path(folder).iterdir())]


def _version(library: str) -> str:
    """Return the version of *library*, '' if it is not there; ``version`` reads a long text as if it were a mail."""
    try:
        stated = _STATED.search(distribution(library).read_text("METADATA") or "")
        return stated[1] if stated else version(library)
    except PackageNotFoundError:
        return ""


@cache
def code(name: str) -> str:
    """Return a digest of the code that the Python module *name* belongs to: of its outermost package.

    Of a model's own code it is the folder of the module: the package has that of all models.
    """
    root, module = name.partition(".")[0], sys.modules[name]
    if root in LIBRARIES:
        return _version(root)
    file = Path(getattr(module, "__file__", None) or name)
    if root == REMOTE or root not in sys.modules:
        folders = [file.parent]
    else:
        folders = [Path(folder) for folder in getattr(sys.modules[root], "__path__", [])]
    paths = sorted(path for folder in folders for path in folder.rglob("*") if _is_code(path)) or [file]
    hashed = hashlib.sha256()
    for path in paths:
        with contextlib.suppress(OSError):
            hashed.update(f"{path.name} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return hashed.hexdigest()


def _is_code(path: Path) -> bool:
    """Tell whether *path* may decide what code does: source, or a small file that it reads."""
    return path.suffix != ".pyc" and path.is_file() and (path.suffix == ".py" or path.stat().st_size < SMALL)


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
        if not file.is_file() or seen(file) != then:
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
            kept = json.loads(note.read_text(encoding="utf-8"))
            if kept["seen"] == here:
                return str(kept["digest"])
    hashed, block = hashlib.sha256(), memoryview(bytearray(1 << 18))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            hashed.update(block[:size])
    if stat.st_size >= LARGE and time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED:
        with contextlib.suppress(OSError):
            note.parent.mkdir(parents=True, exist_ok=True)
            staged = note.with_suffix(f".{os.getpid()}")
            staged.write_text(json.dumps({"seen": here, "digest": hashed.hexdigest()}))
            staged.replace(note)
    return hashed.hexdigest()
