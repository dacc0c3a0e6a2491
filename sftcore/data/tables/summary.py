"""Summary of the labelled rows of a set, in numbers and messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import Any

import numpy as np

from sftcore.core.errors import ConfigError, DataError, RowError
from sftcore.core.types import IGNORE_INDEX, Conversation
from sftcore.data.row_types import Example, Origin
from sftcore.data.sources.formats import ParsedRow
from sftcore.data.tables.examples import Examples, SelectedRows
from sftcore.data.tables.table import LABEL_WARNINGS, Flags
from sftcore.labelling import Labeller, LabelWarning, Policy
from sftcore.runtime.console import count

TRIED = 20  # how many rows are tried with a template that labels no sample conversation


@dataclass
class Summary:
    """Summary of the rows of one set, without those that were rejected, or are in neither set."""

    rows: int = 0  # kept and dropped, each counted once
    kept: int = 0  # rows of which at least one example is trained or evaluated
    dropped: int = 0  # rows in which no token is trained, or none is left within ``max_length``
    too_long: int = 0  # rows among the dropped of which an example was longer than ``max_length``
    examples: int = 0  # examples of the kept rows, before packing; those of a row that is repeated count each time
    tokens: int = 0  # tokens of the examples
    trained: int = 0  # trained tokens among them
    longest: int = 0  # tokens of the longest example, before truncation
    warnings: dict[str, int] = field(default_factory=dict)  # by the names that docs/labelling.md explains
    worked_example: dict[str, Any] = field(default_factory=dict)  # the first: origin, text and trained parts
    packing: dict[str, Any] = field(default_factory=dict)  # rows before and after, fill and padding; {} without packing
    notes: list[str] = field(default_factory=list)  # status lines about these rows
    sources: list[dict[str, Any]] = field(default_factory=list)  # at the end: what was trained or evaluated of each

    def add_dropped(self, part: SelectedRows) -> Flags:
        """Count the rows of *part* of which nothing is trained, and its longest example: the flags of the others."""
        table = part.table
        empty: Flags = table.examples[part.rows] == 0
        self.dropped += int(empty.sum())
        self.too_long += int((empty & table.too_long[part.rows]).sum())
        self.longest = max(self.longest, int(table.longest[part.rows].max(initial=0)))
        return ~empty

    def reduced_to(self, parts: Sequence[Mapping[str, int]], paths: Sequence[str]) -> Summary:
        """The summary with only these *parts* of the sources at *paths*, as they were trained or evaluated."""
        total = {name: sum(part[name] for part in parts) for name in ("rows", "examples", "tokens", "trained")}
        return replace(
            self,
            rows=total["rows"] + self.dropped,
            kept=total["rows"],
            examples=total["examples"],
            tokens=total["tokens"],
            trained=total["trained"],
            sources=[{"path": path, **part} for path, part in zip(paths, parts, strict=True)],
        )

    def add_packing(self, rows: int, fill: float, max_length: int, unpacked: str = "", **more: Any) -> None:
        """Note that the examples share *rows* of *max_length* tokens, of which *fill* is their share."""
        self.packing = {"rows_before": self.examples, "rows": rows, "fill": fill, **more}
        packed = f"{count(self.examples, 'example')} packed into {count(rows, 'row')} of {max_length} tokens"
        self.notes.append(f"{packed}, {fill:.2%} full{unpacked}")


class WarningCounts(Counter[LabelWarning]):
    """The number of times of each warning; ``details`` has the first detail of some."""

    def __init__(self) -> None:
        super().__init__()
        self.details: dict[LabelWarning, str] = {}

    def add(self, part: SelectedRows) -> None:
        """Add the warnings on the rows of *part*."""
        table = part.table.warnings
        if not len(table):
            return
        row, kind = table["row"].to_numpy(), table["warning"].to_numpy()
        chosen = np.isin(row, part.rows)
        sums = np.bincount(kind[chosen], weights=table["times"].to_numpy()[chosen], minlength=len(LABEL_WARNINGS))
        detailed = chosen & table["detail"].is_valid().to_numpy()
        for number in np.flatnonzero(sums).tolist():
            warning = LABEL_WARNINGS[number]
            self[warning] += int(sums[number])
            first = np.flatnonzero(detailed & (kind == number))
            if warning not in self.details and len(first):
                self.details[warning] = f"{part.origin(row[first[0]])}: {table['detail'][int(first[0])].as_py()}"

    def by_name(self) -> dict[str, int]:
        """The numbers by name, as ``run.json`` has them."""
        return {warning.name.lower(): times for warning, times in self.items()}

    def texts(self) -> list[str]:
        """The text of each, with its first detail."""
        details = {warning: f"; {detail}" for warning, detail in self.details.items()}
        return [warning.message(times) + details.get(warning, "") for warning, times in self.items() if times]


def summarize(
    parts: Sequence[SelectedRows],
    name: str,
    tokenizer: Any,
    shown: Callable[[Sequence[Origin]], Sequence[str]],
    unlabelled: int = 0,
) -> tuple[Examples, Summary]:
    """The examples of the set of this *name*, and the summary of its rows.

    Args:
        shown: returns the beginnings of rows, for the message about a set of which nothing is trained.
        unlabelled: number of rows of its sources that cannot be labelled, for that message too.

    Raises:
        DataError: nothing is left to train.
    """
    examples, summary, warnings = Examples(parts), Summary(), WarningCounts()
    for part in parts:
        summary.kept += int(summary.add_dropped(part).sum())
        warnings.add(part)
    summary.rows, summary.examples = summary.kept + summary.dropped, len(examples)
    summary.tokens, summary.trained = int(examples.lengths.sum()), int(examples.trained_tokens.sum())
    summary.warnings, summary.notes = warnings.by_name(), warnings.texts()
    if empty := summary.dropped - summary.too_long:
        summary.notes.append(f"{count(empty, 'row')} without a trained token")
    if len(examples):
        summary.worked_example = _readable(examples[0], tokenizer)
    elif summary.rows:
        place = "" if name == "train" else f"data.{name}: "
        raise DataError(place + _nothing_left(summary, parts, shown, unlabelled))
    return examples, summary


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
        f"no conversation can be labelled with the chat template: {labeller.problem}; the first rows:\n  "
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


def _nothing_left(
    summary: Summary,
    parts: Sequence[SelectedRows],
    shown: Callable[[Sequence[Origin]], Sequence[str]],
    unlabelled: int,
) -> str:
    """The message about a set in which nothing is trained, with three of its rows."""
    first = "\n  ".join(shown([part.origin(row) for part in parts for row in part.rows[:3].tolist()][:3]))
    skipped = [f"{count(unlabelled, 'row')} skipped because of uncertain labels"] if unlabelled else []
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
