"""From parsed rows to labelled examples, with what became of each row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sftcore.data.batch import labelled, labelled_many
from sftcore.data.conversations import Parsed
from sftcore.data.refusals import Refusal, bad_rows
from sftcore.errors import ConfigError, DataError, RowError
from sftcore.report import count
from sftcore.supervision import Labelled, Labeller, Remark, TooLongError
from sftcore.types import Conversation, Example

TRIED = 20
"""How many rows are tried before a template that labels no sample conversation is given up."""

_MESSAGE = re.compile(r"^message \d+: ")


@dataclass
class Summary:
    """What became of the rows of one set; ``rows`` is the sum of ``kept``, ``refused`` and ``dropped``."""

    rows: int = 0
    """Rows that were labelled, each counted once: without bad rows, and rows that are in neither set."""
    kept: int = 0
    """Rows of which at least one example is trained or evaluated."""
    refused: dict[str, int] = field(default_factory=dict)
    """Rows that cannot be labelled with certainty, by reason."""
    dropped: int = 0
    """Rows in which no token is trained, or none is left within ``max_length``."""
    too_long: int = 0
    """Rows among the dropped of which an example was longer than ``max_length``."""
    examples: int = 0
    """Examples made of the kept rows, before packing; those of a row that is repeated count each time."""
    tokens: int = 0
    """Tokens of the examples."""
    trained: int = 0
    """Trained tokens among them."""
    longest: int = 0
    """Tokens of the longest example, before any was made to fit."""
    remarks: dict[str, int] = field(default_factory=dict)
    """What else there is to know of the rows, counted; docs/supervision.md explains the names."""
    worked_example: dict[str, Any] = field(default_factory=dict)
    """The first example: where its row stands, its text, and what of it is trained."""
    packing: dict[str, Any] = field(default_factory=dict)
    """Rows before and after packing, how full they are, and the padding they save; empty without packing."""
    notes: list[str] = field(default_factory=list)
    """What is said of these rows."""


def label(
    rows: Sequence[Parsed], labeller: Labeller, name: str = "train", refusals: list[Refusal] | None = None
) -> tuple[list[Example], Summary]:
    """Tokenize *rows*, and label the tokens that the model must produce.

    Args:
        name: of the set, as messages call it.
        refusals: gets the rows that are refused, without what is in them.

    Raises:
        DataError: nothing is left to train, or a row is too long and the policy is to end the run.
        ConfigError: the chat template can label nothing.
    """
    summary = Summary(rows=len(rows))
    check_template(rows, labeller)
    made: list[tuple[Example, int]] = []
    remarks: Counter[Remark] = Counter()
    details: dict[Remark, str] = {}
    reasons: Counter[str] = Counter()
    refused: list[Refusal] = []
    for row, labelling in zip(rows, labelled_many(rows, labeller), strict=True):
        if isinstance(labelling, TooLongError):
            raise DataError(f"{row.origin}: {labelling}")
        if isinstance(labelling, RowError):
            refusal = Refusal.of(row.origin, str(labelling))
            refused.append(refusal)
            reasons[_MESSAGE.sub("", refusal.reason)] += 1
            continue
        remarks.update({remark: times for remark, times in labelling.remarks.items() if times})
        for remark, detail in labelling.details.items():
            details.setdefault(remark, f"{row.origin}: {detail}")
        found = [example for example in labelling.examples if example.trained]
        summary.longest = max([summary.longest, labelling.longest])
        summary.kept += bool(found)
        summary.dropped += not found
        summary.too_long += not found and bool(labelling.remarks[Remark.TOO_LONG])
        for example in found:
            summary.worked_example = summary.worked_example or _worked(row, labeller)
            summary.tokens += row.times * len(example.input_ids)
            summary.trained += row.times * example.trained
            length = len(example.input_ids)
            made.append(
                (Example(example.input_ids, example.labels, (length,), (row.origin,), example.weights), row.times)
            )
    assert summary.rows == summary.kept + len(refused) + summary.dropped, "a row has vanished"
    examples = _repeated(made)
    summary.examples = len(examples)
    summary.refused = dict(reasons)
    summary.remarks = {remark.name.lower(): times for remark, times in remarks.items()}
    if refusals is not None:
        refusals += refused
    problems = [str(refusal) for refusal in refused]
    summary.notes = list(_notes(summary, problems, remarks, details))
    if rows and not examples:
        raise DataError(("" if name == "train" else f"data.{name}: ") + _nothing_left(rows, summary, problems))
    return examples, summary


def _repeated(made: Sequence[tuple[Example, int]]) -> list[Example]:
    """Return the examples, each as often as it says; all of them before any stands a second time."""
    rounds = max((times for _, times in made), default=0)
    return [example for number in range(rounds) for example, times in made if number < times]


def check_template(rows: Sequence[Parsed], labeller: Labeller) -> None:
    """Find out at once if the chat template can label nothing.

    Raises:
        ConfigError: neither a sample conversation nor any of the first *rows*; the message says why.
    """
    if not rows or not labeller.problem:
        return
    reasons: list[str] = []
    for row in islice(rows, TRIED):
        try:
            done = labeller.label(row.conversation, row.policy)
        except RowError as error:
            reasons.append(f"{row.origin}: {error}")
            continue
        if done.examples:
            return
        reasons += [f"{row.origin}: {remark.said(times)}" for remark, times in done.remarks.items() if times]
    raise ConfigError(
        f"the chat template can label no conversation: {labeller.problem}; nor can any of the first rows be used:\n  "
        + "\n  ".join(reasons[:3] or ["nothing in them is to be trained"])
    )


def _worked(row: Parsed, labeller: Labeller) -> dict[str, Any]:
    """Return the first example of *row* as a person can read it."""
    example = next(example for example in labelled(row, labeller).examples if example.trained)
    return {
        "source": str(row.origin),
        "text": example.text,
        "trained": trained_texts(example),
        "tokens": len(example.input_ids),
        "trained_tokens": example.trained,
    }


def trained_texts(example: Labelled) -> list[str]:
    """Return the stretches of text that are trained, for a tokenizer that tells where its tokens lie."""
    texts: list[list[int]] = []
    before = False
    for (start, end), label in zip(example.offsets, example.labels, strict=False):
        now = label >= 0
        if now and before:
            texts[-1][1] = max(texts[-1][1], end)
        elif now:
            texts.append([start, end])
        before = now
    return [example.text[start:end] for start, end in texts]


def remarked(remarks: Mapping[Remark, int], details: Mapping[Remark, str]) -> Iterator[str]:
    """Yield what *remarks* say, with the first place where there is a detail."""
    for remark, times in remarks.items():
        if times:
            yield remark.said(times) + (f"; {details[remark]}" if remark in details else "")


def _notes(
    summary: Summary, refused: Sequence[str], remarks: Mapping[Remark, int], details: Mapping[Remark, str]
) -> Iterator[str]:
    if refused:
        yield f"{count(len(refused), 'row')} cannot be labelled with certainty, and left out:"
        yield from (f"  {problem}" for problem in refused[:5])
        if len(refused) > 5:
            yield f"  ... and {len(refused) - 5} more; run.json has the reasons"
    yield from remarked(remarks, details)
    if empty := summary.dropped - summary.too_long:
        yield f"{count(empty, 'row')} without a trained token"


def _nothing_left(rows: Sequence[Parsed], summary: Summary, refused: Sequence[str]) -> str:
    """Return the message about a set in which nothing is trained, with three of its rows."""
    if len(refused) == len(rows):
        return bad_rows(list(refused))
    shown = "\n  ".join(f"{row.origin}: {_beginning(row.conversation)}" for row in rows[:3])
    said = "".join(f"\n  {note}" for note in summary.notes if not note.startswith("  "))
    limit = rows[0].policy.max_length
    why = f"data.max_length is {limit}, the longest example has {count(summary.longest, 'token')}"
    told = f"\n  {why}" if summary.too_long else ""
    return f"no token of any row (of {len(rows)}) is trained; the first:\n  {shown}{said}{told}"


def _beginning(conversation: Conversation) -> str:
    """Return the roles of *conversation*, each with the beginning of its text."""
    return ", ".join(
        f"{message.role}{'' if message.train is None else f' (train: {str(message.train).lower()})'} "
        f"{message.content[:40]!r}"
        for message in conversation.messages[:3]
    )
