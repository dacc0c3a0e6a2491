"""Everything between the configuration's data section and the examples a run trains on."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from sftcore.config import DataConfig, EvalFraction, Loaded
from sftcore.data.conversations import Parsed, Source, parse_sources
from sftcore.data.labels import Summary, label
from sftcore.data.packing import pack
from sftcore.errors import DataError
from sftcore.plugins import Registry
from sftcore.report import count
from sftcore.supervision import Labeller
from sftcore.types import Example


class Rows(NamedTuple):
    """The parsed rows of both sets, and the sources they came from."""

    train: list[Parsed]
    eval: list[Parsed]
    sources: list[Source]

    def fingerprint(self) -> str:
        """Return a SHA-256 over all conversations, in order."""
        digest = hashlib.sha256()
        for part in (self.train, self.eval):
            for row in part:
                digest.update(_hash(row).encode())
            digest.update(b"|")
        return f"sha256:{digest.hexdigest()}"


class Prepared(NamedTuple):
    """The examples of both sets, and what became of their rows."""

    train: list[Example]
    eval: list[Example]
    train_summary: Summary
    eval_summary: Summary


def check_rows(loaded: Loaded, registry: Registry) -> Rows:
    """Read and parse every row, which needs no model.

    Raises:
        DataError: bad rows, with file and line of each, or a set without rows.
    """
    config: DataConfig = loaded.config.data
    sources = parse_sources(config.train, ("data", "train"), loaded, registry)
    train = [row for source in sources for row in source.rows]
    if not train:
        raise DataError("the training sources have no rows")
    held_back: list[Parsed] = []
    if isinstance(config.eval, EvalFraction):
        train, held_back = _split(train, config.eval.fraction, loaded.config.seed)
    elif config.eval is not None:
        extra = parse_sources(config.eval, ("data", "eval"), loaded, registry)
        held_back = [row for source in extra for row in source.rows]
        sources += extra
    return Rows(train, held_back, sources)


def prepare(rows: Rows, config: DataConfig, labeller: Labeller) -> Prepared:
    """Return the examples that *rows* become.

    Raises:
        DataError: nothing is left to train, or a row is too long and the policy is to end the run.
        ConfigError: the chat template can label nothing.
    """
    train, train_summary = label(rows.train, labeller)
    held_back, eval_summary = label(rows.eval, labeller, "eval")
    if config.packing:
        packed = pack(train, config.max_length)
        fill = train_summary.tokens / (len(packed) * config.max_length)
        train_summary.notes.append(
            f"{count(len(train), 'example')} packed into {len(packed)} of {config.max_length} tokens, {fill:.1%} full"
        )
        train, held_back = packed, pack(held_back, config.max_length)
    return Prepared(train, held_back, train_summary, eval_summary)


def _split(rows: list[Parsed], fraction: float, seed: int) -> tuple[list[Parsed], list[Parsed]]:
    """Hold back about *fraction* of *rows*, chosen by content and *seed*; equal rows stay together."""
    if len(rows) < 2:
        raise DataError(
            f"data.eval: cannot hold back a share of {len(rows)} row; give more rows, or evaluation sources"
        )
    keys = [hashlib.sha256(f"{seed}:{_hash(row)}".encode()).hexdigest() for row in rows]
    limit = sorted(keys)[max(1, min(round(len(rows) * fraction), len(rows) - 1)) - 1]
    held_back = [row for row, key in zip(rows, keys, strict=True) if key <= limit]
    train = [row for row, key in zip(rows, keys, strict=True) if key > limit]
    if not train:
        raise DataError("data.eval: all rows are equal, so no share of them can be held back")
    return train, held_back


def _hash(row: Parsed) -> str:
    """Return the SHA-256 of a conversation's content."""
    return hashlib.sha256(repr(row.conversation).encode("utf-8", "surrogatepass")).hexdigest()
