"""Compare our labels with the masks of TRL's training templates.

TRL ships, beside some chat templates, a twin of each that was patched by hand: ``NAME.jinja`` and
``NAME_training.jinja``, whose ``{% generation %}`` blocks say what is trained. Here our labels on the original are held
against the mask of the twin, token by token. Get the templates from TRL yourself (``trl/chat_templates`` of its
package) and run ``python bench/exactness/twins.py FOLDER``. Nothing of TRL is part of this project.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import vocabularies
from kinds import KINDS, Case
from oracle import common, ends_of
from score import Tokens, conversation
from transformers import PreTrainedTokenizerBase

from sftcore import RowError
from sftcore.core.types import IGNORE_INDEX
from sftcore.labelling import Labeller, Policy

AFTER, HEADER, UNTRAINED, OTHER = "after stop", "header", "not trained", "other"
COLUMNS = {
    "identical": "the same tokens are trained",
    AFTER: "the twin also trains what follows the stop token: white space, an end-of-text token",
    HEADER: "the twin also trains text of the prompt, or a role header",
    UNTRAINED: "the twin does not train tokens that the model has to produce",
    OTHER: "any other difference",
    "ids differ": "the twin renders another text than the original",
    "rejected": "we reject the conversation",
}


@dataclass
class Comparison:
    """The results of the conversations of one twin."""

    conversations: Counter[str] = field(default_factory=Counter)
    """A conversation counts in every column of a difference that it has."""
    tokens: Counter[str] = field(default_factory=Counter)
    samples: dict[str, str] = field(default_factory=dict)

    def add(self, column: str, sample: str = "") -> None:
        self.conversations[column] += 1
        self.samples.setdefault(column, sample)


def differences(ours: Tokens, theirs: Sequence[bool]) -> dict[str, list[int]]:
    """Return the tokens that are trained by one side only, by what they are."""
    found: dict[str, list[int]] = {}
    number = 0
    while number < len(theirs):
        begin = number
        while number < len(theirs) and (theirs[number], ours.trained[number]) == (theirs[begin], ours.trained[begin]):
            number += 1
        if theirs[begin] == ours.trained[begin]:
            continue
        if not theirs[begin]:
            column = UNTRAINED
        elif begin and ours.trained[begin - 1]:
            column = AFTER
        elif number < len(theirs) and ours.trained[number]:
            column = HEADER
        else:
            column = OTHER
        found.setdefault(column, []).extend(range(begin, number))
    return found


def compare(tokenizer: PreTrainedTokenizerBase, twin: str, labeller: Labeller, case: Case, found: Comparison) -> None:
    """Compare one conversation, labelled as a whole, since a mask has no other way."""
    messages, tools = case
    given = {"tools": tools or None, "tokenize": True, "return_dict": True}
    try:
        expected = tokenizer.apply_chat_template(messages, **given)["input_ids"]
        masked = tokenizer.apply_chat_template(messages, chat_template=twin, return_assistant_tokens_mask=True, **given)
    except Exception:
        found.conversations["not rendered"] += 1
        return
    if list(masked["input_ids"]) != list(expected):
        original, other = tokenizer.decode(expected), tokenizer.decode(masked["input_ids"])
        at = max(0, common(original, other) - 40)
        found.add("ids differ", f"{original[at : at + 90]!r} becomes {other[at : at + 90]!r}")
        return
    try:
        (example,) = labeller.examples(conversation(messages, tools), Policy(context="whole"))
    except RowError as error:
        found.add("rejected", str(error))
        return
    ours = Tokens(tokenizer, example.text, example.labels)
    mask = [bool(trained) for trained in masked["assistant_masks"]]
    theirs = Tokens(tokenizer, example.text, [1 if trained else IGNORE_INDEX for trained in mask])
    differing = differences(ours, mask)
    found.tokens["same"] += len(ours.ids) - sum(map(len, differing.values()))
    if not differing:
        found.add("identical")
    for column, numbers in differing.items():
        found.tokens[column] += len(numbers)
        where = ours.offsets[numbers[0]]
        found.add(column, f"ours {ours.shown(where)}, twin {theirs.shown(where)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("templates", type=Path, help="TRL's trl/chat_templates")
    parser.add_argument("--tokenizer", default="bytes", choices=list(vocabularies.KINDS))
    parser.add_argument("-v", "--verbose", action="store_true", help="print a sample of each difference")
    given = parser.parse_args()
    logging.disable(logging.WARNING)

    templates = {path.stem: path.read_text() for path in sorted(given.templates.glob("*.jinja"))}
    tokenizer = vocabularies.make(given.tokenizer, list(templates.values()))
    pairs = {name: f"{name}_training" for name in templates if f"{name}_training" in templates}
    results: dict[str, Comparison] = {}
    for name, twin in pairs.items():
        ends = vocabularies.dress(tokenizer, templates[name], ends_of(name, templates[name]))
        labeller = Labeller(tokenizer, ends.stops)
        results[name] = Comparison()
        for kind in KINDS.values():
            compare(tokenizer, templates[twin], labeller, kind(ends.stops[0]), results[name])

    print(f"| {'twin':<24} | {' | '.join(COLUMNS)} |")
    print("|" + "---|" * (len(COLUMNS) + 1))
    for name, found in results.items():
        cells = (f"{found.conversations[column]:>{len(column)}}" for column in COLUMNS)
        print(f"| {name:<24} | {' | '.join(cells)} |")
    conversations = sum((found.conversations for found in results.values()), Counter[str]())
    print(f"| {'all':<24} | {' | '.join(f'{conversations[column]:>{len(column)}}' for column in COLUMNS)} |")
    print("\n" + "\n".join(f"{column}: {meaning}." for column, meaning in COLUMNS.items()))
    tokens = sum((found.tokens for found in results.values()), Counter[str]())
    print("Tokens: " + ", ".join(f"{count} {column}" for column, count in tokens.most_common()) + ".")
    if given.verbose:
        for name, found in results.items():
            for column, sample in found.samples.items():
                if sample:
                    print(f"  {name}, {column}: {sample}")


if __name__ == "__main__":
    main()
