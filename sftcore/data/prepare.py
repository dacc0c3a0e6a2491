"""Everything between the configuration's data section and the examples a run trains on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from sftcore.config import DataConfig, EvalFraction, Loaded, SourceConfig
from sftcore.data import refusals
from sftcore.data.account import Account, account
from sftcore.data.bins import padding
from sftcore.data.conversations import Parsed, Source, parse_sources
from sftcore.data.evaluation import Parts, hold_back, keep_out
from sftcore.data.labels import Summary, label
from sftcore.data.packing import PackedSet
from sftcore.data.refusals import Refusal
from sftcore.data.sampling import draw, targets
from sftcore.errors import DataError
from sftcore.plugins import Registry
from sftcore.report import count
from sftcore.supervision import Labeller
from sftcore.types import Example


class Rows(NamedTuple):
    """The parsed rows of both sets, each once, and what became of the others that were read.

    ``dropped`` has the numbers of those that are in neither set, by reason, and ``notes`` what is said of all this.
    """

    train: list[Parsed]
    eval: list[Parsed]
    sources: list[Source]
    dropped: dict[str, int]
    notes: list[str]

    @property
    def read(self) -> int:
        """The number of rows that were read."""
        return sum(source.read for source in self.sources)

    @property
    def refused(self) -> list[Refusal]:
        """The bad rows."""
        return [refusal for source in self.sources for refusal in source.refused]

    def fingerprint(self) -> str:
        """Return a SHA-256 over all conversations, in order, and how they are trained."""
        digest = hashlib.sha256()
        for part in (self.train, self.eval):
            for row in part:
                digest.update(row.key)
                digest.update(_training(row))
            digest.update(b"|")
        return f"sha256:{digest.hexdigest()}"


def _training(row: Parsed) -> bytes:
    """Return what the key of *row* does not say of it; nothing in most cases."""
    marks = [(message.train, message.weight) for message in row.conversation.messages]
    plain = not row.conversation.template_kwargs and row.times == 1 and set(marks) == {(None, 1.0)}
    return b"" if plain else repr((marks, row.conversation.template_kwargs, row.times)).encode()


class Prepared(NamedTuple):
    """The examples of both sets, and what became of their rows.

    ``refused`` are the bad rows, and those that the chat template cannot label: these without what is in them.
    """

    train: Sequence[Example]
    eval: Sequence[Example]
    train_summary: Summary
    eval_summary: Summary
    refused: Sequence[Refusal] = ()
    account: Account = Account()


def check_rows(loaded: Loaded, registry: Registry) -> Rows:
    """Read and parse every row, and say which are trained, how often, and which are evaluated; needs no model.

    Raises:
        DataError: more bad rows than ``data.max_bad_rows``, with file and line of each, or a set without rows.
        ConfigError: a source renames a column that no row has.
    """
    config, seed = loaded.config.data, loaded.config.seed
    sources = parse_sources(config.train, ("data", "train"), loaded, registry)
    train: Parts = [source.rows for source in sources]
    held_back: Parts = []
    also: list[Source] = []
    if isinstance(config.eval, list):
        also = parse_sources(config.eval, ("data", "eval"), loaded, registry)
        held_back = [source.rows for source in also]
    refused = [refusal for source in (*sources, *also) for refusal in source.refused]
    refusals.check(refused, sum(source.read for source in (*sources, *also)), config.max_bad_rows)
    _check_left(train, "the training sources have no rows", refused)
    _check_left(held_back, "data.eval: the sources have no rows", refused)

    dropped: dict[str, int] = {}
    if isinstance(config.eval, EvalFraction):
        train, held_back = hold_back(train, config.eval.fraction, seed)
    elif also:
        before = _size(train)
        train = keep_out(train, held_back)
        dropped["also in data.eval"] = before - _size(train)
        _check_left(train, "every row of data.train is also in data.eval", [])
    drawn, notes = _draw(train, config.train, seed, "an epoch")
    if isinstance(config.eval, EvalFraction):
        evaluated = _draw_alike(held_back, train, drawn, seed)
    else:
        evaluated, more = _draw(held_back, config.eval or [], seed, "the evaluation")
        notes += more
    dropped["not drawn"] = _size(train) - _size(drawn) + _size(held_back) - _size(evaluated)
    return Rows(
        list(chain.from_iterable(drawn)),
        list(chain.from_iterable(evaluated)),
        [*sources, *also],
        {reason: number for reason, number in dropped.items() if number},
        notes,
    )


def _check_left(parts: Parts, problem: str, refused: Sequence[Refusal]) -> None:
    """Raise if *parts* are of sources, and none has a row."""
    if parts and not any(parts):
        raise DataError(refusals.bad_rows([str(refusal) for refusal in refused]) if refused else problem)


def _draw(parts: Parts, sources: Sequence[SourceConfig], seed: int, whole: str) -> tuple[Parts, list[str]]:
    """Return each of *parts* as its source says how often its rows stand in the *whole*, and what is said of it."""
    wanted = targets([len(rows) for rows in parts], sources)
    drawn: Parts = []
    notes: list[str] = []
    for rows, source, target in zip(parts, sources, wanted, strict=True):
        if source.share is not None and not rows:
            raise DataError(f"data source {source.path}: has no rows to train, and so cannot have a share of them")
        drawn.append(draw(rows, target, seed) if rows else [])
        if target != len(rows):
            note = f"{source.path}: {len(drawn[-1]):,} of {count(len(rows), 'row')} drawn"
            notes.append(f"{note}, as {target:,} of {sum(wanted):,} in {whole} ({target / sum(wanted):.1%})")
    return drawn, notes


def _size(parts: Parts) -> int:
    return sum(map(len, parts))


def _draw_alike(held_back: Parts, train: Parts, drawn: Parts, seed: int) -> Parts:
    """Return what is *held_back* of each source, drawn as its rows to *train* were, but no row more than once."""
    alike: Parts = []
    for rows, part, taken in zip(held_back, train, drawn, strict=True):
        rate = min(1.0, sum(row.times for row in taken) / len(part)) if part else 1.0
        alike.append(draw(rows, max(1, round(len(rows) * rate)), seed) if rows else [])
    return alike


def prepare(rows: Rows, config: DataConfig, labeller: Labeller, batch_sizes: tuple[int, int]) -> Prepared:
    """Return the examples that *rows* become.

    Args:
        batch_sizes: of the batches that a device trains and evaluates on, in rows.

    Raises:
        DataError: nothing is left to train, or a row is too long and the policy is to end the run.
        ConfigError: the chat template can label nothing.
    """
    unlabelled: list[Refusal] = []
    train, train_summary = label(rows.train, labeller, refusals=unlabelled)
    held_back, eval_summary = label(rows.eval, labeller, "eval", unlabelled)
    refused = [*rows.refused, *unlabelled]
    became = account(rows.read, refused, rows.dropped, train_summary, eval_summary)
    if not config.packing:
        return Prepared(train, held_back, train_summary, eval_summary, refused, became)
    return Prepared(
        _packed(train, config.max_length, batch_sizes[0], train_summary),
        _packed(held_back, config.max_length, batch_sizes[1], eval_summary),
        train_summary,
        eval_summary,
        refused,
        became,
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
