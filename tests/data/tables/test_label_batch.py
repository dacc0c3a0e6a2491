"""Rows that are tokenized together become what each becomes alone."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from sftcore import Conversation, Message, RowError
from sftcore.core.errors import DataError
from sftcore.core.types import IGNORE_INDEX
from sftcore.data.row_types import Origin
from sftcore.data.sources.formats import ParsedRow
from sftcore.data.tables.label_batch import label_row, label_rows
from sftcore.data.tables.table import LABEL_WARNINGS, Table
from sftcore.labelling import Labeller, LabelWarning, Policy, TooLongError

from ..making import key, make_labeller, row

FORGETS = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}
{%- if m.reasoning_content and loop.last %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}
{{- m.content + '<|im_end|>\n' }}
{%- if m.content == 'bad' %}{{ raise_exception('not this word') }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

POLICIES = [
    Policy(),
    Policy(train_on="last_turn"),
    Policy(train_on="all", weight=0.5),
    Policy(train_on=["user", "assistant"], train_on_stop=False),
    Policy(reasoning="mask", context="whole"),
    Policy(max_length=40),
    Policy(max_length=40, truncation="split"),
    Policy(max_length=40, truncation="truncate_right"),
    Policy(max_length=40, truncation="drop_row"),
    Policy(max_length=40, truncation="error"),
]
TEXTS = ["Hi.", "", "bad", "你好 👋🏽", "é" * 9, " \n x ", "half \ud83d", "<|im_end|>", "a b c " * 8, "don't 12345"]


def rows(number: int, seed: int) -> list[ParsedRow]:
    chance = random.Random(seed)
    made = []
    for line in range(1, number + 1):
        messages = [Message("system", "Be brief.")] if chance.random() < 0.3 else []
        for _ in range(chance.randint(1, 4)):
            text = chance.choice(TEXTS) if chance.random() < 0.5 else "word " * chance.randint(1, 6)
            reasoning = chance.choice([None, None, "so"])
            weight = chance.choice([1.0, 1.0, 0.25, 0.0])
            train = chance.choice([None, None, None, False])
            messages.append(Message("user", text))
            messages.append(Message("assistant", text[::-1], reasoning_content=reasoning, weight=weight, train=train))
        talk = Conversation(tuple(messages))
        made.append(ParsedRow(talk, Origin("f", line), key(f"{seed} {line}")))
    return made


def slow(tokenizer):
    """Return a tokenizer that does not tell where its tokens lie."""
    tokenizer.__class__ = type("Slow", (type(tokenizer),), {"is_fast": False})
    return tokenizer


MERGES = FORGETS.replace("'\n' }}", "': ' }}").replace("assistant\n", "assistant: ")
"""The space before an answer is the prompt's, and becomes a part of the answer's first token."""


@pytest.fixture(scope="module", params=["fast", "slow", "merges"])
def labeller(request, smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.chat_template = MERGES if request.param == "merges" else FORGETS
    return Labeller(slow(tokenizer) if request.param == "slow" else tokenizer, ["<|im_end|>"])


def attempt(parsed, labeller, policy):
    try:
        return label_row(parsed, labeller, policy)
    except RowError as error:
        return error


@pytest.fixture(scope="module")
def alone(labeller):
    """For each policy rows, and the result of labelling each alone."""
    return [
        (policy, [(parsed, attempt(parsed, labeller, policy)) for parsed in rows(20, seed)])
        for seed, policy in enumerate(POLICIES)
    ]


@pytest.mark.parametrize("per_block", [1, 7, 1000])
def test_a_batch_of_rows_is_labelled_as_each_row_alone(labeller, alone, per_block):
    expected = [pair for _, pairs in alone for pair in pairs if not isinstance(pair[1], TooLongError)]
    done = []
    for policy, pairs in alone:
        made = [parsed for parsed, labelling in pairs if not isinstance(labelling, TooLongError)]
        done += [
            label_rows(made[first : first + per_block], labeller, policy, 3) for first in range(0, len(made), per_block)
        ]

    refused = [(parsed, type(error), str(error)) for _, part in done for parsed, error in part]
    assert refused == [(row, type(error), str(error)) for row, error in expected if isinstance(error, RowError)]
    assert refused

    table = Table([batch for batch, _ in done])
    kept = [(parsed, labelling) for parsed, labelling in expected if not isinstance(labelling, RowError)]
    assert table.line.tolist() == [parsed.origin.line for parsed, _ in kept]
    assert table.keys.tolist() == [parsed.key for parsed, _ in kept]
    assert set(table.file.tolist()) == {3}
    assert table.longest.tolist() == [labelling.longest for _, labelling in kept]
    assert table.too_long.tolist() == [bool(labelling.warnings[LabelWarning.TOO_LONG]) for _, labelling in kept]
    assert warnings(table) == [
        (at, warning.name, times, labelling.details.get(warning))
        for at, (_, labelling) in enumerate(kept)
        for warning, times in sorted(labelling.warnings.items(), key=lambda item: item[0].name)
        if times
    ]
    assert all(labelling.warnings[warning] for _, labelling in kept for warning in labelling.details)

    examples = [[one for one in labelling.examples if one.trained] for _, labelling in kept]
    assert table.examples.tolist() == list(map(len, examples))
    for number, one in enumerate(one for part in examples for one in part):
        tokens = table.example(number)
        assert (tokens.input_ids.tolist(), tokens.labels.tolist()) == (one.input_ids, one.labels)
        plain = [float(label != IGNORE_INDEX) for label in one.labels]
        weights = plain if tokens.weights is None else tokens.weights.tolist()
        assert weights == (plain if one.weights is None else one.weights)

    seen = {name for _, name, _, _ in warnings(table)}
    assert {0, 1, 2, 3} <= set(map(len, examples))
    assert {"TOO_LONG", "TRUNCATED"} <= seen
    assert ("CROSSED_BOUNDARY" in seen) is (labeller.tokenizer.chat_template == MERGES)


def warnings(table):
    """Return the row of each warning, what it is, how often it is made, and its detail."""
    columns = (table.warnings[name].to_pylist() for name in ("row", "warning", "times", "detail"))
    return sorted(
        (row, LABEL_WARNINGS[kind].name, times, detail) for row, kind, times, detail in zip(*columns, strict=True)
    )


def test_a_row_that_is_too_long_may_end_the_run(labeller, alone):
    ends = [(policy, *pair) for policy, pairs in alone for pair in pairs if isinstance(pair[1], TooLongError)]
    assert ends
    for policy, parsed, error in ends:
        with pytest.raises(DataError) as raised:
            label_rows([parsed], labeller, policy)
        assert str(raised.value) == f"{parsed.origin}: {error}"


def test_the_digest_of_a_row_does_not_depend_on_the_others(labeller, alone):
    for policy, pairs in alone:
        made = [parsed for parsed, done in pairs if not isinstance(done, TooLongError)]
        one_by_one = Table([label_rows([parsed], labeller, policy)[0] for parsed in made])
        assert Table([label_rows(made, labeller, policy)[0]]).digests.tolist() == one_by_one.digests.tolist()


@pytest.mark.parametrize(
    ("other", "policy"),
    [
        (row("q", "b", "r", "b"), Policy()),
        (row("q", "a", "r", "b", weight=0.5), Policy()),
        (row("q", "a", "r", "b"), Policy(train_on="last_turn")),
        (row("q", "a", "r", "b"), Policy(train_on_stop=False)),
        (row("q", "a", "r", "b"), Policy(max_length=6, truncation="split")),
        (row("q", "a"), Policy()),
    ],
)
def test_rows_of_other_tokens_labels_weights_or_lengths_have_other_digests(other, policy):
    labeller = make_labeller()
    same, another = row("q", "a", "r", "b", line=1), row("q", "a", "r", "b", line=2)
    first, second = Table([label_rows([same, another], labeller, Policy())[0]]).digests.tolist()
    [third] = Table([label_rows([other], labeller, policy)[0]]).digests.tolist()
    assert first == second != third


def test_no_rows_are_a_table_without_rows(labeller):
    batch, failed = label_rows([], labeller, Policy())
    assert (len(Table([batch])), failed) == (0, [])


def test_neither_pandas_nor_what_computes_with_arrow_is_imported():
    """Either takes longer than to label a thousand rows, in each process."""
    code = """
import sys
from sftcore.data.preparation import worker
from sftcore.data.preparation.blocks import Block
from tests.data.making import loaded, make_labeller
from types import SimpleNamespace
from sftcore.data.sources.formats import DataSource
from sftcore.labelling import Policy
from sftcore_plugins.formats.messages import Messages
config = loaded("x").config
rows = SimpleNamespace(names=["f"])
source = DataSource(config.data.train[0], ("data", "train", 0), rows, "messages", Messages(), Policy())
rows = [(line, {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": text}]})
        for line, text in enumerate(["b", "bad", "c"], start=1)]
before = {*sys.modules}
done = worker.label_block(Block(0, 0, rows, 1.0), [source], make_labeller(), True)
assert (done.table.num_rows, len(done.rejected), done.totals.tokens) == (2, 1, 12), done
print({"pandas", "pyarrow.compute"} & {*sys.modules} - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
