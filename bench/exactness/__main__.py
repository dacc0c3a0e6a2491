"""Score the labels of sftcore against the oracle, on a folder of chat templates.

``python bench/exactness --templates FOLDER`` prints a table: for each kind of conversation, how many templates render
it, and how many of those are labelled exactly. A template counts with its worst result over the tokenizers.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import re
import traceback
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import vocabularies
from kinds import KINDS
from oracle import Oracle, ends_of
from score import OUTCOMES, Verdict, conversation, judge, omits_text
from transformers import PreTrainedTokenizerBase

from sftcore import RowError
from sftcore.core.labelling_policy import Context
from sftcore.labelling import Labeller, Policy

PROCESSES = 2
REJECTED = ("rejected", "not printed")
TOKENIZERS: dict[str, PreTrainedTokenizerBase] = {}


@dataclass
class Row:
    """The result of one template, one kind of conversation, one tokenizer."""

    template: str
    kind: str
    tokenizer: str
    outcome: str
    findings: list[str] = field(default_factory=list)
    examples: int = 0
    needless: int = 0
    notes: dict[str, int] = field(default_factory=dict)


def prepare(names: Sequence[str], templates: Sequence[str]) -> None:
    """Make the tokenizers, once per process."""
    logging.disable(logging.WARNING)
    TOKENIZERS.update({name: vocabularies.make(name, templates) for name in names})


def score(name: str, template: str, kinds: Sequence[str], context: Context, told: bool) -> list[Row]:
    """Score one template."""
    rows = []
    for vocabulary, tokenizer in TOKENIZERS.items():
        ends = vocabularies.dress(tokenizer, template, ends_of(name, template))
        labeller: Labeller | None = None
        for kind in kinds:
            messages, tools = KINDS[kind](ends.stops[0])
            oracle = Oracle(tokenizer, name, messages, tools)
            if oracle.text(len(messages)) is None:
                continue
            verdict = Verdict()
            try:
                labeller = labeller or Labeller(tokenizer, ends.stops if told else ())
                examples = labeller.examples(conversation(messages, tools), Policy(context=context))
                verdict = judge(oracle, tokenizer, examples, context == "served")
            except RowError as error:
                verdict.add("not printed" if omits_text(oracle) else "rejected", str(error))
            except Exception:
                verdict.add("wrong", traceback.format_exc())
            rows.append(Row(name, kind, vocabulary, **vars(verdict)))
    return rows


def worst(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Return the worst outcome of each template and kind."""
    found: dict[tuple[str, str], str] = {}
    for row in rows:
        key = row.template, row.kind
        found[key] = max(found.get(key, "exact"), row.outcome, key=OUTCOMES.index)
    return found


def table(rows: Sequence[Row], kinds: Sequence[str]) -> str:
    columns = ["exact", "wrong", "ids differ", "rejected", "not printed", "not served", "undecided"]
    outcomes = worst(rows)
    lines = [f"| {'kind':<20} | rendered | {' | '.join(f'{column:>10}' for column in columns)} |"]
    lines.append("|" + "---|" * (len(columns) + 2))
    for kind in (*kinds, "all"):
        counts = Counter(outcome for (_, of), outcome in outcomes.items() if kind in (of, "all"))
        cells = " | ".join(f"{counts[column]:>10}" for column in columns)
        lines.append(f"| {kind:<20} | {counts.total():>8} | {cells} |")
    return "\n".join(lines)


def rejected(rows: Sequence[Row]) -> dict[str, Counter[str]]:
    """Return the templates of which no conversation was labelled, with the reasons."""
    of_template = defaultdict(list)
    for row in rows:
        of_template[row.template].append(row)
    return {
        name: Counter(finding for row in all_ for finding in row.findings)
        for name, all_ in of_template.items()
        if all(row.outcome in REJECTED for row in all_)
    }


def report(rows: Sequence[Row], kinds: Sequence[str], verbose: bool) -> None:
    print(table(rows, kinds))
    for vocabulary in dict.fromkeys(row.tokenizer for row in rows):
        counts = Counter(row.outcome for row in rows if row.tokenizer == vocabulary)
        print(f"{vocabulary}: {', '.join(f'{counts[outcome]} {outcome}' for outcome in OUTCOMES if counts[outcome])}")
    first = rows[0].tokenizer if rows else ""
    once = [row for row in rows if row.tokenizer == first]
    print(f"\n{sum(row.examples for row in once)} examples of {len(once)} conversations;", end=" ")
    print(f"{sum(row.needless for row in once)} turns are in an example of their own without need")
    print("\nAccepted, though a matter of judgement:")
    for note in sorted({note for row in once for note in row.notes}):
        turns = sum(row.notes.get(note, 0) for row in once)
        print(f"  {note}: {turns} turns of {', '.join(sorted({row.template for row in once if note in row.notes}))}")
    print("\nRefused:")
    reasons = Counter(f"{re.sub(r'[0-9]+', 'N', row.findings[0])}" for row in once if row.outcome in REJECTED)
    for reason, count in reasons.most_common():
        print(f"  {count:>5}  {reason}")
    print("\nTemplates of which every conversation was rejected:")
    for name, reasons in sorted(rejected(rows).items()):
        print(f"  {name}: {'; '.join(f'{reason} ({count})' for reason, count in reasons.most_common(3))}")
    if not verbose:
        return
    print("\nWrong:")
    shown: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    for row in rows:
        if row.outcome in ("wrong", "ids differ"):
            for finding in row.findings:
                shown[row.template, row.kind, finding].append(row.tokenizer)
    for (name, kind, finding), vocabularies_ in shown.items():
        print(f"  {name} {kind} [{', '.join(vocabularies_)}]: {finding}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python bench/exactness", description=__doc__.splitlines()[0])
    parser.add_argument("--templates", type=Path, required=True, help="a folder of *.jinja files")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a template; may be repeated")
    parser.add_argument("--kind", action="append", default=[], choices=list(KINDS), help="may be repeated")
    parser.add_argument("--tokenizer", action="append", default=[], choices=list(vocabularies.KINDS))
    parser.add_argument("--context", choices=["served", "whole"], default="served")
    parser.add_argument("--untold", action="store_true", help="do not tell the labeller which strings end a turn")
    parser.add_argument("--json", type=Path, help="write every result here")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every wrong conversation")
    given = parser.parse_args()

    templates = {path.stem: path.read_text() for path in sorted(given.templates.glob("*.jinja"))}
    names = [name for name in templates if not given.only or name in given.only]
    kinds = given.kind or list(KINDS)
    started = (given.tokenizer or list(vocabularies.KINDS), list(templates.values()))
    jobs: list[tuple[Any, ...]] = [(name, templates[name], kinds, given.context, not given.untold) for name in names]
    with multiprocessing.Pool(PROCESSES, prepare, started) as pool:
        rows = [row for rows in pool.starmap(score, jobs, chunksize=1) for row in rows]
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False))
    report(rows, kinds, given.verbose)


if __name__ == "__main__":
    main()
