"""What labelled rows depend on, as one key: equal keys, equal rows."""

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
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sftcore.data.sources.compression import suffixes
from sftcore.data.sources.formats import DataSource
from sftcore.data.sources.renaming import OPTIONS
from sftcore.data.sources.source_rows import file_state
from sftcore.labelling import Labeller
from sftcore.labelling.rendering.environment import NOW
from sftcore.runtime.file_io import file_sha256, write_atomically
from sftcore.runtime.paths import cache_folder

LIBRARIES = ("transformers", "tokenizers", "jinja2", "pyarrow", "datasets", "sentencepiece", "tiktoken")
"""Libraries that take part in labelling or reading."""

REMOTE = "transformers_modules"  # the package of the code that models bring
SMALL = 1 << 20  # files of a package that are not source count as its code up to this many bytes
LARGE = 1 << 24  # the digest of a file of at least this many bytes is cached, as long as nobody touches the file
SETTLED = 2.0  # how many seconds old a file must be for a later change to show in its times
_CLOCK = re.compile(r"%-?[HIMSpfXcsTRrZz]")  # a ``strftime`` directive for the time of day


def source_key(source: DataSource, digests: Iterable[str], labeller_digest: str) -> str:
    """The key of a source's labelled rows: 32 hexadecimal digits.

    It depends on the bytes of the data, the options of the source that matter, and on the code: sftcore's, that of the
    format, and the versions of the libraries that take part. *digests* are those of its files; they are consumed last.
    """
    config, form, files = source.config, type(source.format), source.rows.files
    code = [code_digest("sftcore"), platform.python_version(), *map(_version, LIBRARIES)]
    return _digest(
        {
            "data": [list(pair) for pair in zip(map(suffixes, files), digests, strict=True)] or source.rows.fingerprint,
            "limit": config.limit,
            "delimiter": config.delimiter,
            "renaming": [sorted(getattr(config, option).items()) for option in OPTIONS],
            "format": [form.__qualname__, asdict(source.format), _code_of_classes(form)],
            "policy": asdict(source.policy),
            "labeller": labeller_digest,
            "code": code,
        }
    )


def digest_labeller(labeller: Labeller) -> str:
    """A digest of the tokenizer, its chat template, the template's variables and the stop strings."""
    tokenizer = labeller.tokenizer
    template = str(tokenizer.chat_template)
    fast = getattr(tokenizer, "is_fast", False)
    day = "%Y-%m-%d" if "strftime_now" in template else ""
    return _digest(
        {
            "class": [type(tokenizer).__qualname__, _code_of_classes(type(tokenizer))],
            "tokens": hashlib.sha256(labeller.serialized.encode()).hexdigest() if fast else _saved_files(tokenizer),
            "split": getattr(tokenizer, "split_special_tokens", False),
            "special": tokenizer.special_tokens_map,
            "template": template,
            "variables": list(labeller.variables.items()),
            "stops": labeller.stops,
            "now": NOW.isoformat() if _CLOCK.search(template) and day else NOW.strftime(day),
        }
    )


def _digest(parts: Mapping[str, Any]) -> str:
    """A digest of *parts*; the order of mappings in them matters, as it may to a template."""
    return hashlib.sha256(json.dumps(parts, default=repr).encode()).hexdigest()[:32]


def _code_of_classes(cls: type) -> list[str]:
    """Digests of the code of *cls* and its bases, without those that every class has."""
    common = ("builtins", "typing", "sftcore")
    return [code_digest(each.__module__) for each in cls.__mro__ if each.__module__.partition(".")[0] not in common]


def _saved_files(tokenizer: Any) -> list[list[str]]:
    """The files of *tokenizer*, one that is written in Python, each with its digest."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return [[file.name, file_sha256(file)] for file in sorted(Path(folder).iterdir())]


def _version(library: str) -> str:
    """The version of *library*, '' if it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


@cache
def code_digest(name: str) -> str:
    """A digest of the code that the Python module *name* belongs to: of its outermost package.

    For a model's own code it is the folder of the module, since the package has that of all models.
    """
    root, module = name.partition(".")[0], sys.modules[name]
    if root in LIBRARIES:
        return _version(root)
    file = Path(getattr(module, "__file__", None) or name)
    if root == REMOTE or root not in sys.modules:
        folders = [file.parent]
    else:
        folders = [Path(folder) for folder in getattr(sys.modules[root], "__path__", [])]
    files = (path for folder in folders for path in folder.rglob("*") if path.suffix != ".pyc" and path.is_file())
    code = sorted(path for path in files if path.suffix == ".py" or path.stat().st_size < SMALL)
    hashed = hashlib.sha256()
    for path in code or [file]:
        with contextlib.suppress(OSError):
            hashed.update(f"{path.name} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return hashed.hexdigest()


def data_digest(path: Path) -> str:
    """SHA-256 of the file *path*; of a large file it is cached while size, times and inode are the same."""
    stat, state = path.stat(), file_state(path)
    if stat.st_size < LARGE:
        return file_sha256(path)
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    note = cache_folder() / "digests" / f"{name}.json"
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        cached = json.loads(note.read_text(encoding="utf-8"))
        if cached["state"] == state:
            return str(cached["digest"])
    digest = file_sha256(path)
    if time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED:
        with contextlib.suppress(OSError):
            note.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(note, json.dumps({"state": state, "digest": digest}))
    return digest
