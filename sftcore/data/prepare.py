"""Everything between the configuration's data section and the examples a run trains on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from sftcore.config import DataConfig, EvalFraction, Loaded
from sftcore.data.bins import padding
from sftcore.data.conversations import Parsed, Source, parse_sources
from sftcore.data.labels import Summary, label
from sftcore.data.packing import PackedSet
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

    train: Sequence[Example]
    eval: Sequence[Example]
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


def prepare(rows: Rows, config: DataConfig, labeller: Labeller, batch_sizes: tuple[int, int]) -> Prepared:
    """Return the examples that *rows* become.

    Args:
        batch_sizes: of the batches that a device trains and evaluates on, in rows.

    Raises:
        DataError: nothing is left to train, or a row is too long and the policy is to end the run.
        ConfigError: the chat template can label nothing.
    """
    train, train_summary = label(rows.train, labeller)
    held_back, eval_summary = label(rows.eval, labeller, "eval")
    if not config.packing:
        return Prepared(train, held_back, train_summary, eval_summary)
    return Prepared(
        _packed(train, config.max_length, batch_sizes[0], train_summary),
        _packed(held_back, config.max_length, batch_sizes[1], eval_summary),
        train_summary,
        eval_summary,
    )


def _packed(examples: list[Example], max_length: int, batch_size: int, summary: Summary) -> PackedSet:
    """Return *examples* in rows that they share, and tell how full these are."""
    packed = PackedSet(examples, max_length)
    if examples:
        fill, avoided = packed.bins.fill, padding(packed.bins.lengths, batch_size)
        summary.packing = {
            "rows_before": len(examples),
            "rows": len(packed),
            "fill": fill,
            "padding_avoided": avoided,
            "padding_batch_size": batch_size,
        }
        unpacked = f"; batches of {batch_size} unpacked would be {avoided:.1%} padding" if batch_size > 1 else ""
        summary.notes.append(
            f"{count(len(examples), 'example')} packed into {count(len(packed), 'row')} of {max_length} tokens, "
            f"{fill:.2%} full{unpacked}"
        )
    return packed


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
