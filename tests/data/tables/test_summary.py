"""Labels of a set of rows: what is kept, refused and dropped, what is told of it, and when there is nothing left."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from sftcore import ConfigError, Conversation
from sftcore.core.errors import DataError
from sftcore.core.types import IGNORE_INDEX
from sftcore.data import prepare
from sftcore.data.row_types import Origin
from sftcore.data.tables.account import rejected_at
from sftcore.data.tables.label_batch import label_rows
from sftcore.data.tables.summary import TRIED, Summary, beginning_of, check_template, summarize
from sftcore.labelling import Labeller, Policy
from sftcore.runs import preparation

from ..making import PLAIN, REGISTRY, loaded, make_labeller, part_of, row, table_of, write


@pytest.fixture(scope="module")
def labeller():
    return make_labeller()


def label(rows, labeller, name="train", policy=Policy()):  # noqa: B008
    """Return the examples of a set, and the summary of its rows: as :func:`prepare` does, of rows in memory."""
    check_template(((row, policy) for row in rows), labeller)
    conversations = {parsed.origin: parsed.conversation for parsed in rows}
    return summarize(
        [part_of(table_of(rows, labeller, policy=policy))],
        name,
        labeller.tokenizer,
        lambda origins: [f"{origin}: {beginning_of(conversations[origin])}" for origin in origins],
    )


def prepared(folder, rows, labeller, **data):
    """The prepared rows of a file with *rows*."""
    lines = ({"messages": [message.to_dict() for message in parsed.conversation.messages]} for parsed in rows)
    allowed = {"max_bad_rows": 9, "max_unlabelled": 1.0}
    return prepare(loaded(write(folder / "f.jsonl", lines), **allowed, **data), REGISTRY, labeller)


def lines(examples):
    return [example.origins[0].line for example in examples]


def test_ids_are_those_of_serving_and_labels_the_answers(smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    parsed = row("What is 2+2?", "It is 4.", "再见 👋", "Bye.", line=7)
    [example], summary = label([parsed], Labeller(tokenizer, ["<|im_end|>"]))
    messages = [message.to_dict() for message in parsed.conversation.messages]
    assert example.input_ids.tolist() == tokenizer.apply_chat_template(messages, return_dict=False)
    trained = example.labels[example.labels != IGNORE_INDEX]
    assert tokenizer.decode(trained) == "It is 4.<|im_end|>Bye.<|im_end|>"
    assert (example.lengths, example.origins, example.weights) == ((len(example.input_ids),), (Origin("f", 7),), None)
    assert (summary.tokens, summary.trained) == (len(example.input_ids), len(trained))
    assert summary.notes == []


MIXED = [
    row("q", "a", line=1),
    row("q", "bad", line=2),
    row("q" * 30, "a", line=3),
    row("q", "a", "r", "b", line=4),
    row("q", "a\ud83d", line=5),
    row("q", line=6),
    row("q", "a", "bad", "b", line=7),
    row("q", "a", line=8, train=False),
    row("q", "a" * 30, "r", "b", line=9),
]


@pytest.mark.parametrize(
    ("truncation", "kept", "warning"),
    [
        ("drop_turns", [1, 4, 9], "1 example lost its oldest exchanges"),
        ("drop_row", [1, 4], "2 examples were dropped"),
        ("split", [1, 4, 9], "2 examples were dropped"),
        ("truncate_right", [1, 4, 9], "1 turn was cut"),
    ],
)
def test_each_row_is_kept_rejected_or_dropped(labeller, truncation, kept, warning):
    policy = Policy(max_length=20, truncation=truncation)
    examples, summary = label(MIXED, labeller, policy=policy)
    assert lines(examples) == kept
    assert summary.rows == 6 == summary.kept + summary.dropped
    assert summary.kept == len(kept)
    assert [refused.origin.line for refused, _ in label_rows(MIXED, labeller, policy)[1]] == [2, 5, 7]
    assert summary.examples == len(examples)
    assert summary.tokens == sum(len(example.input_ids) for example in examples) == sum(e.lengths[0] for e in examples)
    assert summary.trained == sum(label != IGNORE_INDEX for example in examples for label in example.labels)
    assert all(len(example.input_ids) <= 20 for example in examples)
    assert warning in "\n".join(summary.notes)


def test_a_row_of_which_only_the_first_token_could_be_trained_is_dropped():
    labeller = make_labeller("{% for m in messages if m.role == 'assistant' %}{{ m.content }}{% endfor %}")
    examples, summary = label([row("q", "a", line=1), row("q", "ab", line=2)], labeller)
    assert lines(examples) == [2]
    assert (summary.rows, summary.kept, summary.dropped, summary.trained) == (2, 1, 1, 1)


def test_rejected_rows_are_counted_by_reason_and_listed_with_file_and_line(labeller, tmp_path, capsys):
    found = prepared(tmp_path, MIXED, labeller)
    told, path = "the chat template rejects it: message {}: not this word", tmp_path / "f.jsonl"
    surrogate = "the text has the lone surrogate '\\ud83d', which is not a character"
    assert found.account.rejected == {told.format(2): 1, told.format(3): 1, surrogate: 1}
    [source] = found.sources
    totals = source.cached.totals
    assert (totals.read, sum(totals.bad.values()), sum(totals.unlabelled.values())) == (9, 1, 2)
    assert list(map(str, rejected_at(totals.first_bad, source.names))) == [f"{path}:5: {surrogate}"]
    first = list(map(str, rejected_at(totals.first_unlabelled, source.names)))
    assert first == [f"{path}:2: {told.format(2)}", f"{path}:7: {told.format(3)}"]
    assert found.train_summary.notes == ["1 row without a trained token"]
    preparation.report_sources(found)
    said = capsys.readouterr().err
    assert "2 rows skipped because of uncertain labels:" in said
    assert f"{path}:7: {told.format(3)}" in said


def test_one_reason_is_one_whatever_message_it_is_about(tmp_path):
    labeller = make_labeller(PLAIN.replace("m.content +", "(m.content if m.content != 'x' else '') +"))
    found = prepared(tmp_path, [row("q", "x"), row("q", "a", "r", "x"), row("q", "a")], labeller)
    reason = "the template prints nothing of what the assistant wrote"
    assert found.account.rejected == {reason: 2}
    first = found.sources[0].cached.totals.first_unlabelled
    assert [reason for _, _, reason in first] == [f"message 2: {reason}", f"message 4: {reason}"]


def test_the_first_rejected_rows_are_shown(labeller, tmp_path, capsys):
    found = prepared(tmp_path, [row("q", "a"), *[row("q", "bad")] * 8], labeller)
    capsys.readouterr()
    preparation.report_sources(found)
    told = [line.split(maxsplit=1)[1] for line in capsys.readouterr().err.splitlines()]
    assert told[1] == "8 rows skipped because of uncertain labels:"
    assert [line.split()[0] for line in told[2:7]] == [f"{tmp_path}/f.jsonl:{line}:" for line in range(2, 7)]
    assert told[7:] == ["... and 3 more"]


def test_a_row_that_just_fits_is_not_cut(labeller):
    def notes(limit):
        return label([row("q", "a")], labeller, policy=Policy(max_length=limit, truncation="truncate_right"))

    [example], summary = notes(6)
    assert example.labels.tolist() == label([row("q", "a")], labeller)[0][0].labels.tolist()
    assert (len(example.input_ids), summary.notes) == (6, [])
    [example], summary = notes(5)
    assert (len(example.input_ids), summary.notes) == (5, ["1 turn was cut at max_length and lost its stop token"])


@pytest.mark.parametrize("truncation", ["drop_turns", "drop_row", "split", "truncate_right"])
def test_the_longest_example_counts_before_truncation(labeller, truncation):
    rows = [row("q", "a"), row("q", "a" * 30, "r", "b")]
    assert label(rows, labeller, policy=Policy(max_length=20, truncation=truncation))[1].longest == 3 + 2 + 30 + 6


def test_a_row_that_is_too_long_may_end_the_run(labeller):
    rows = [row("q", "a"), row("q", "a" * 30, line=2)]
    with pytest.raises(DataError, match=r"^f:2: has 35 tokens, more than max_length 20 \(truncation: error\)$"):
        label(rows, labeller, policy=Policy(max_length=20, truncation="error"))


def test_each_row_has_the_policy_of_its_source(labeller):
    policies = [
        Policy(),
        Policy(train_on="last_turn", weight=0.5),
        Policy(max_length=6, truncation="split", train_on_stop=False),
    ]
    parts = [
        part_of(table_of([row("q", "a", "r", "b", line=line)], labeller, policy=policy))
        for line, policy in enumerate(policies, start=1)
    ]
    examples, summary = summarize(parts, "train", labeller.tokenizer, list)
    assert lines(examples) == [1, 2, 3, 3]
    trained = [example.labels != IGNORE_INDEX for example in examples]
    assert [mask.sum() for mask in trained] == [4, 2, 1, 1]
    assert examples[1].weights.tolist() == [0.0] * 10 + [0.5, 0.5]
    assert all(examples[at].weights is None for at in (0, 2, 3))
    assert (summary.rows, summary.kept, summary.examples) == (3, 3, 4)


def test_warnings_are_summed_over_rows(labeller):
    rows = [row("q", "a", reasoning_content="hm"), row("q", "a", "r", "b", reasoning_content="hm"), row("q", "a")]
    _, summary = label(rows, labeller)
    assert summary.warnings == {"no_reasoning": 3}
    assert summary.notes == ["3 turns have reasoning that this chat template does not print"]


MARKED = """{% for m in messages %}{{ '[' + m.role + ']' }}{% if m.role == 'assistant' %}
{%- generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '</s>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"""


def test_a_warning_has_the_first_detail_of_the_rows_of_the_set():
    labeller = make_labeller(MARKED)
    table = table_of([row("q", text, line=line) for line, text in enumerate("abc", start=1)], labeller)
    _, summary = summarize([part_of(table, [0, 1, 1])], "train", labeller.tokenizer, list)
    assert summary.warnings == {"other_marks": 2}
    assert summary.notes[0].endswith("; f:2: trained 'b</s>', they have 'b'")


@pytest.mark.parametrize(("use", "noted"), [("", True), ("{{ tools and '' }}{{ tools and '-' }}", False)])
def test_tools_that_the_template_does_not_print_are_noted(use, noted):
    parsed = row("q", "a")
    with_tools = parsed._replace(conversation=Conversation(parsed.conversation.messages, ({"type": "function"},)))
    _, summary = label([with_tools, parsed], make_labeller(use + PLAIN))
    assert summary.notes == (["1 row has tools, which this chat template does not print"] if noted else [])


def test_the_first_example_is_shown(labeller):
    _, summary = label([row("q", "bad", line=1), row("q", "a", "r", "é🙂", line=2), row("s", "c", line=3)], labeller)
    assert summary.worked_example == {
        "source": "f:2",
        "text": "[user]q</s>[assistant]a</s>[user]r</s>[assistant]é🙂</s>",
        "trained": ["a</s>", "é🙂</s>"],
        "tokens": 17,
        "trained_tokens": 9,
    }


@pytest.mark.parametrize(
    ("train_on", "trained"),
    [("all", ["q</s>[assistant]a</s>[user]r</s>[assistant]b</s>"]), (["user"], ["q", "r"])],
)
def test_trained_texts(labeller, train_on, trained):
    _, summary = label([row("q", "a", "r", "b")], labeller, policy=Policy(train_on=train_on))
    assert summary.worked_example["trained"] == trained


# nothing left


@pytest.mark.parametrize("source", [PLAIN, "{{ raise_exception('no') }}"])
def test_no_rows_are_no_error(source):
    examples, summary = label([], make_labeller(source))
    assert (list(examples), summary) == ([], Summary())


def test_if_nothing_is_left_the_first_rows_are_shown(labeller):
    rows = [row("q", "a", line=line, train=False) for line in range(1, 5)]
    with pytest.raises(DataError) as raised:
        label(rows, labeller)
    assert str(raised.value).splitlines() == [
        "no token of any row (of 4) is trained; the first:",
        *(f"  f:{line}: user 'q', assistant (train: false) 'a'" for line in (1, 2, 3)),
        "  4 rows without a trained token",
    ]


def test_if_no_token_is_trained_the_error_lists_all_reasons(labeller, tmp_path):
    rows = [row("q" * 60, "a"), row("q", "bad"), row("q")]
    with pytest.raises(DataError) as raised:
        prepared(tmp_path, rows, labeller, max_length=9)
    assert str(raised.value).splitlines() == [
        "no token of any row (of 2) is trained; the first:",
        f"  {tmp_path}/f.jsonl:1: user '{'q' * 40}', assistant 'a'",
        f"  {tmp_path}/f.jsonl:3: user 'q'",
        "  1 row skipped because of uncertain labels",
        "  1 example was dropped, because it is longer than max_length",
        "  1 row without a trained token",
        "  the longest example has 65 tokens",
    ]


def test_the_set_of_which_nothing_is_left_is_named(labeller):
    with pytest.raises(DataError, match=r"^data.eval: no token of any row \(of 1\) is trained; the first:"):
        label([row("q", "a", train=False)], labeller, "eval")


def test_rows_that_cannot_be_labelled_are_listed_together(labeller, tmp_path):
    with pytest.raises(DataError) as raised:
        prepared(tmp_path, [row("q", "bad")] * 15, labeller)
    head, *told = str(raised.value).splitlines()
    assert head == "15 rows cannot be used; fix or remove:"
    assert [line.split()[0] for line in told] == [*(f"{tmp_path}/f.jsonl:{line}:" for line in range(1, 11)), "..."]
    assert told[0] == f"  {tmp_path}/f.jsonl:1: the chat template rejects it: message 2: not this word"


# a template that can label nothing


def test_a_template_that_can_label_nothing_is_an_error_at_once():
    labeller = make_labeller("{{ raise_exception('no ' ~ messages[0].content[0]) }}")
    with pytest.raises(ConfigError) as raised:
        label([row("q", "a", line=line) for line in range(1, 6)], labeller)
    assert str(raised.value).splitlines() == [
        f"no conversation can be labelled with the chat template: {labeller.problem}; the first rows:",
        *(f"  f:{line}: the chat template rejects it: no q" for line in (1, 2, 3)),
    ]


def test_a_template_for_rows_of_its_own_kind():
    labeller = make_labeller("{{ '' if 'magic' in messages[0].content else raise_exception('no magic') }}" + PLAIN)
    assert "no magic" in labeller.problem
    examples, summary = label([row("q", "a"), row("magic", "a", line=2), row("q", "a", line=3)], labeller)
    assert lines(examples) == [2]
    assert summary.rows == 1


@pytest.mark.parametrize("good", [TRIED - 1, TRIED])
def test_only_the_first_rows_are_tried(good):
    labeller = make_labeller("{{ '' if 'magic' in messages[0].content else raise_exception('no magic') }}" + PLAIN)
    rows = [row("magic" if index == good else "q", "a", line=index) for index in range(TRIED + 1)]
    if good < TRIED:
        assert label(rows, labeller)[1].kept == 1
    else:
        with pytest.raises(ConfigError, match="no conversation can be labelled"):
            label(rows, labeller)
