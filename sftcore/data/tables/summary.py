"""Summary of the labelled rows of a set, in numbers and messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

import numpy as np

from sftcore.core.errors import ConfigError, DataError, RowError
from sftcore.core.types import IGNORE_INDEX, Conversation
from sftcore.data.row_types import Example, Origin
from sftcore.data.sources.formats import ParsedRow
from sftcore.data.tables.examples import Examples, SelectedRows
from sftcore.data.tables.table import LABEL_WARNINGS
from sftcore.labelling import Labeller, LabelWarning, Policy
from sftcore.runtime.console import count

TRIED = 20
"""How many rows are tried with a template that labels no sample conversation."""


@dataclass
class Summary:
    """Summary of the rows of one set; ``rows`` is the sum of ``kept`` and ``dropped``."""

    rows: int = 0
    """Rows of the set, each counted once: without those that were rejected, or are in neither set."""
    kept: int = 0
    """Rows of which at least one example is trained or evaluated."""
    dropped: int = 0
    """Rows in which no token is trained, or none is left within ``max_length``."""
    too_long: int = 0
    """Rows among the dropped of which an example was longer than ``max_length``."""
    examples: int = 0
    """Examples of the kept rows, before packing; those of a row that is repeated count each time."""
    tokens: int = 0
    """Tokens of the examples."""
    trained: int = 0
    """Trained tokens among them."""
    longest: int = 0
    """Tokens of the longest example, before truncation."""
    warnings: dict[str, int] = field(default_factory=dict)
    """What else there is to know of the rows, counted; docs/labelling.md explains the names."""
    worked_example: dict[str, Any] = field(default_factory=dict)
    """The first example: the origin of its row, its text, and the trained parts."""
    packing: dict[str, Any] = field(default_factory=dict)
    """Rows before and after packing, how full they are, and the padding they save; empty without packing."""
    notes: list[str] = field(default_factory=list)
    """Status lines about these rows."""


def summarize(
    parts: Sequence[SelectedRows],
    name: str,
    tokenizer: Any,
    shown: Callable[[Sequence[Origin]], Sequence[str]],
    unlabelled: int = 0,
) -> tuple[Examples, Summary]:
    """The examples of a set, and the summary of its rows.

    Args:
        name: of the set, as messages call it.
        tokenizer: decodes the tokens of the first example.
        shown: returns the beginnings of rows, for the message about a set of which nothing is trained.
        unlabelled: number of rows of its sources that cannot be labelled, for that message too.

    Raises:
        DataError: nothing is left to train.
    """
    examples = Examples(parts)
    rows = sum(len(part.rows) for part in parts)
    summary = Summary(rows=rows, examples=len(examples))
    warnings: Counter[LabelWarning] = Counter()
    details: dict[LabelWarning, str] = {}
    for part in parts:
        table, chosen = part.table, part.rows
        empty = table.examples[chosen] == 0
        summary.kept += int((~empty).sum())
        summary.dropped += int(empty.sum())
        summary.too_long += int((empty & table.too_long[chosen]).sum())
        summary.longest = max(summary.longest, int(table.longest[chosen].max(initial=0)))
        count_warnings(part, warnings, details)
    summary.tokens, summary.trained = int(examples.lengths.sum()), int(examples.trained_tokens.sum())
    summary.warnings = {warning.name.lower(): times for warning, times in warnings.items()}
    summary.notes = list(_notes(summary, warnings, details))
    if len(examples):
        summary.worked_example = _readable(examples[0], tokenizer)
    elif rows:
        raise DataError(
            ("" if name == "train" else f"data.{name}: ") + _nothing_left(summary, parts, shown, unlabelled)
        )
    return examples, summary


def count_warnings(part: SelectedRows, warnings: Counter[LabelWarning], details: dict[LabelWarning, str]) -> None:
    """Add the warnings on the rows of *part*, and the first detail of each warning."""
    table = part.table.warnings
    if not len(table):
        return
    row, kind = table["row"].to_numpy(), table["warning"].to_numpy()
    chosen = np.isin(row, part.rows)
    sums = np.bincount(kind[chosen], weights=table["times"].to_numpy()[chosen], minlength=len(LABEL_WARNINGS))
    detailed = chosen & table["detail"].is_valid().to_numpy()
    for number in np.flatnonzero(sums).tolist():
        warning = LABEL_WARNINGS[number]
        warnings[warning] += int(sums[number])
        first = np.flatnonzero(detailed & (kind == number))
        if warning not in details and len(first):
            details[warning] = f"{part.origin(row[first[0]])}: {table['detail'][int(first[0])].as_py()}"


def check_template(rows: Iterable[tuple[ParsedRow, Policy]], labeller: Labeller) -> None:
    """Check at once that the chat template can label anything.

    Raises:
        ConfigError: neither a sample conversation nor any of the first :data:`TRIED` *rows* can be labelled.
    """
    if not labeller.problem or not (first := list(islice(rows, TRIED))):
        return
    reasons: list[str] = []
    for row, policy in first:
        try:
            labelling = labeller.label(row.conversation, policy)
        except RowError as error:
            reasons.append(f"{row.origin}: {error}")
            continue
        if labelling.examples:
            return
        reasons += [f"{row.origin}: {warning.message(times)}" for warning, times in labelling.warnings.items() if times]
    raise ConfigError(
        f"the chat template can label no conversation: {labeller.problem}; nor can any of the first rows be used:\n  "
        + "\n  ".join(reasons[:3] or ["nothing in them is to be trained"])
    )


def _readable(example: Example, tokenizer: Any) -> dict[str, Any]:
    """*example* as a person can read it."""

    def decoded(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))

    ids, labels = np.asarray(example.input_ids).tolist(), np.asarray(example.labels).tolist()
    runs = [list(run) for trained, run in groupby(labels, key=lambda label: label != IGNORE_INDEX) if trained]
    return {
        "source": str(example.origins[0]),
        "text": decoded(ids),
        "trained": [decoded(run) for run in runs],
        "tokens": len(ids),
        "trained_tokens": sum(map(len, runs)),
    }


def warning_texts(warnings: Mapping[LabelWarning, int], details: Mapping[LabelWarning, str]) -> Iterator[str]:
    """Yield the texts of *warnings*, each with its first detail."""
    for warning, times in warnings.items():
        if times:
            yield warning.message(times) + (f"; {details[warning]}" if warning in details else "")


def _notes(
    summary: Summary, warnings: Mapping[LabelWarning, int], details: Mapping[LabelWarning, str]
) -> Iterator[str]:
    yield from warning_texts(warnings, details)
    if empty := summary.dropped - summary.too_long:
        yield f"{count(empty, 'row')} without a trained token"


def _nothing_left(
    summary: Summary,
    parts: Sequence[SelectedRows],
    shown: Callable[[Sequence[Origin]], Sequence[str]],
    unlabelled: int,
) -> str:
    """The message about a set in which nothing is trained, with three of its rows."""
    first = "\n  ".join(shown([part.origin(row) for part in parts for row in part.rows[:3].tolist()][:3]))
    skipped = [f"{count(unlabelled, 'row')} cannot be labelled with certainty, and skipped"] if unlabelled else []
    notes = "".join(f"\n  {note}" for note in [*skipped, *summary.notes])
    longest = f"\n  the longest example has {count(summary.longest, 'token')}" if summary.too_long else ""
    return f"no token of any row (of {summary.rows}) is trained; the first:\n  {first}{notes}{longest}"


def beginning_of(conversation: Conversation) -> str:
    """The roles of *conversation*, each with the beginning of its text."""
    return ", ".join(
        f"{message.role}{'' if message.train is None else f' (train: {str(message.train).lower()})'} "
        f"{message.content[:40]!r}"
        for message in conversation.messages[:3]
    )
