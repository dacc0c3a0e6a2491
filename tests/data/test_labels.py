"""Labels of a set of rows: what is kept, refused and dropped, what is told of it, and when there is nothing left."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sftcore import IGNORE_INDEX, ConfigError, Conversation, DataError, Message, Origin
from sftcore.data.batch import labelled
from sftcore.data.conversations import Parsed
from sftcore.data.labels import TRIED, Summary, label, trained_texts
from sftcore.supervision import Labeller, Policy

PLAIN = """{% for m in messages %}{{ '[' + m.role + ']' + m.content + '</s>' }}
{%- if m.content == 'bad' %}{{ raise_exception('message ' ~ loop.index ~ ': not this word') }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"""


def make_labeller(source=PLAIN):
    """Return a labeller to which every marker and every other byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(marker, normalized=False) for marker in ("[system]", "[user]", "[assistant]", "</s>")]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    tokenizer.chat_template = source
    return Labeller(tokenizer, ["</s>"])


@pytest.fixture(scope="module")
def labeller():
    return make_labeller()


def row(*texts, line=1, policy=Policy(), **assistant):  # noqa: B008 - it cannot be changed
    roles = ["user", "assistant"] * len(texts)
    fields = [{}, assistant] * len(texts)
    messages = (Message(role, text, **more) for role, text, more in zip(roles, texts, fields, strict=False))
    return Parsed(Conversation(tuple(messages)), Origin("f", line), policy)


def test_ids_are_those_of_serving_and_labels_the_answers(smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    parsed = row("What is 2+2?", "It is 4.", "再见 👋", "Bye.", line=7)
    [example], summary = label([parsed], Labeller(tokenizer, ["<|im_end|>"]))
    messages = [message.as_dict() for message in parsed.conversation.messages]
    assert example.input_ids == tokenizer.apply_chat_template(messages, return_dict=False)
    trained = [token for token in example.labels if token != IGNORE_INDEX]
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


def with_policy(rows, **policy):
    return [parsed._replace(policy=Policy(**policy)) for parsed in rows]


@pytest.mark.parametrize(
    ("truncation", "kept", "remark"),
    [
        ("drop_turns", [1, 4, 9], "1 example lost its oldest exchanges"),
        ("drop_row", [1, 4], "2 examples were dropped"),
        ("split", [1, 4, 9], "2 examples were dropped"),
        ("truncate_right", [1, 4, 9], "1 turn was cut"),
    ],
)
def test_each_row_is_kept_refused_or_dropped(labeller, truncation, kept, remark):
    examples, summary = label(with_policy(MIXED, max_length=20, truncation=truncation), labeller)
    assert [example.origins[0].line for example in examples] == kept
    assert summary.rows == 9 == summary.kept + sum(summary.refused.values()) + summary.dropped
    assert (summary.kept, sum(summary.refused.values())) == (len(kept), 3)
    assert summary.examples == len(examples)
    assert summary.tokens == sum(len(example.input_ids) for example in examples) == sum(e.lengths[0] for e in examples)
    assert summary.trained == sum(label != IGNORE_INDEX for example in examples for label in example.labels)
    assert all(len(example.input_ids) <= 20 for example in examples)
    assert remark in "\n".join(summary.notes)


def test_a_row_of_which_only_the_first_token_could_be_trained_is_dropped():
    labeller = make_labeller("{% for m in messages if m.role == 'assistant' %}{{ m.content }}{% endfor %}")
    examples, summary = label([row("q", "a", line=1), row("q", "ab", line=2)], labeller)
    assert [example.origins[0].line for example in examples] == [2]
    assert (summary.rows, summary.kept, summary.dropped, summary.trained) == (2, 1, 1, 1)


def test_what_is_refused_is_counted_by_reason_and_told_with_its_place(labeller):
    _, summary = label(MIXED, labeller)
    told = "the chat template refuses it: message {}: not this word"
    surrogate = "the text has '\\ud83d', half of a surrogate pair, which is no character"
    assert summary.refused == {told.format(2): 1, surrogate: 1, told.format(3): 1}
    assert summary.notes == [
        "3 rows cannot be labelled with certainty, and left out:",
        f"  f:2: {told.format(2)}",
        f"  f:5: {surrogate}",
        f"  f:7: {told.format(3)}",
        "2 rows without a trained token",
    ]


def test_one_reason_is_one_whatever_message_it_is_about():
    labeller = make_labeller(PLAIN.replace("m.content +", "(m.content if m.content != 'x' else '') +"))
    rows = [row("q", "x", line=1), row("q", "a", "r", "x", line=2), row("q", "a", line=3)]
    _, summary = label(rows, labeller)
    reason = "the template prints nothing of what the assistant wrote"
    assert summary.refused == {reason: 2}
    assert summary.notes[1:] == [f"  f:1: message 2: {reason}", f"  f:2: message 4: {reason}"]


def test_a_few_rows_that_are_refused_are_shown(labeller):
    _, summary = label([row("q", "a"), *(row("q", "bad", line=line) for line in range(2, 10))], labeller)
    assert summary.notes[0] == "8 rows cannot be labelled with certainty, and left out:"
    assert [note.split()[0] for note in summary.notes[1:6]] == [f"f:{line}:" for line in range(2, 7)]
    assert summary.notes[6:] == ["  ... and 3 more; run.json has the reasons"]


def test_a_row_that_just_fits_is_not_cut(labeller):
    def notes(limit):
        return label(with_policy([row("q", "a")], max_length=limit, truncation="truncate_right"), labeller)

    [example], summary = notes(6)
    assert example == label([row("q", "a")], labeller)[0][0]
    assert (len(example.input_ids), summary.notes) == (6, [])
    [example], summary = notes(5)
    assert (len(example.input_ids), summary.notes) == (5, ["1 turn was cut at max_length, and lost its stop token"])


@pytest.mark.parametrize("truncation", ["drop_turns", "drop_row", "split", "truncate_right"])
def test_the_longest_is_told_as_it_was(labeller, truncation):
    rows = with_policy([row("q", "a"), row("q", "a" * 30, "r", "b")], max_length=20, truncation=truncation)
    assert label(rows, labeller)[1].longest == 3 + 2 + 30 + 6


def test_a_row_that_is_too_long_may_end_the_run(labeller):
    rows = [row("q", "a"), row("q", "a" * 30, line=2, policy=Policy(max_length=20, truncation="error"))]
    with pytest.raises(DataError, match=r"^f:2: has 35 tokens, more than max_length 20 \(truncation: error\)$"):
        label(rows, labeller)


def test_each_row_has_the_policy_of_its_source(labeller):
    rows = [
        row("q", "a", "r", "b", line=1),
        row("q", "a", "r", "b", line=2, policy=Policy(train_on="last_turn", weight=0.5)),
        row("q", "a", "r", "b", line=3, policy=Policy(max_length=6, truncation="split", train_on_stop=False)),
    ]
    examples, summary = label(rows, labeller)
    assert [example.origins[0].line for example in examples] == [1, 2, 3, 3]
    assert [example.weights for example in examples] == [None, [0.0] * 10 + [0.5, 0.5], None, None]
    assert [sum(label != IGNORE_INDEX for label in example.labels) for example in examples] == [4, 2, 1, 1]
    assert (summary.rows, summary.kept, summary.examples) == (3, 3, 4)


def test_remarks_are_summed_over_rows(labeller):
    rows = [row("q", "a", reasoning_content="hm"), row("q", "a", "r", "b", reasoning_content="hm"), row("q", "a")]
    _, summary = label(rows, labeller)
    assert summary.remarks == {"no_reasoning": 3}
    assert summary.notes == ["3 turns have reasoning that this chat template does not print"]


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


def test_trained_texts(labeller):
    [example] = labelled(row("q", "a", "r", "b", policy=Policy(train_on="all")), labeller).examples
    assert trained_texts(example) == ["q</s>[assistant]a</s>[user]r</s>[assistant]b</s>"]
    [example] = labelled(row("q", "a", "r", "b", policy=Policy(train_on=["user"])), labeller).examples
    assert trained_texts(example) == ["r"] if example.labels[1] == IGNORE_INDEX else ["q", "r"]


# nothing left


def test_no_rows_are_no_error(labeller):
    assert label([], labeller) == ([], Summary())
    assert label([], make_labeller("{{ raise_exception('no') }}")) == ([], Summary())


def test_if_nothing_is_left_the_first_rows_are_shown(labeller):
    rows = [row("q", "a", line=line, train=False) for line in range(1, 5)]
    with pytest.raises(DataError) as raised:
        label(rows, labeller)
    assert str(raised.value).splitlines() == [
        "no token of any row (of 4) is trained; the first:",
        *(f"  f:{line}: user 'q', assistant (train: false) 'a'" for line in (1, 2, 3)),
        "  4 rows without a trained token",
    ]


def test_if_nothing_is_left_all_that_happened_is_told(labeller):
    rows = with_policy([row("q" * 60, "a"), row("q", "bad", line=2)], max_length=9)
    with pytest.raises(DataError) as raised:
        label(rows, labeller)
    assert str(raised.value).splitlines() == [
        "no token of any row (of 2) is trained; the first:",
        f"  f:1: user '{'q' * 40}', assistant 'a'",
        "  f:2: user 'q', assistant 'bad'",
        "  1 row cannot be labelled with certainty, and left out:",
        "  1 example was dropped, because it is longer than max_length",
        "  data.max_length is 9, the longest example has 65 tokens",
    ]


def test_rows_that_cannot_be_labelled_are_told_together(labeller):
    with pytest.raises(DataError) as raised:
        label([row("q", "bad", line=line) for line in range(1, 16)], labeller)
    head, *told = str(raised.value).splitlines()
    assert head == "15 rows cannot be used; mend or remove:"
    assert [line.split()[0] for line in told] == [*(f"f:{line}:" for line in range(1, 11)), "..."]
    assert told[0] == "  f:1: the chat template refuses it: message 2: not this word"


# a template that can label nothing


def test_a_template_that_can_label_nothing_is_told_at_once():
    labeller = make_labeller("{{ raise_exception('no ' ~ messages[0].content[0]) }}")
    with pytest.raises(ConfigError) as raised:
        label([row("q", "a", line=line) for line in range(1, 6)], labeller)
    assert str(raised.value).splitlines() == [
        f"the chat template can label no conversation: {labeller.problem}; nor can any of the first rows be used:",
        *(f"  f:{line}: the chat template refuses it: no q" for line in (1, 2, 3)),
    ]


def test_a_template_for_rows_of_its_own_kind():
    labeller = make_labeller("{{ '' if 'magic' in messages[0].content else raise_exception('no magic') }}" + PLAIN)
    assert "no magic" in labeller.problem
    examples, summary = label([row("q", "a"), row("magic", "a", line=2), row("q", "a", line=3)], labeller)
    assert [example.origins[0].line for example in examples] == [2]
    assert summary.refused == {"the chat template refuses it: no magic": 2}


@pytest.mark.parametrize("good", [TRIED - 1, TRIED])
def test_only_the_first_rows_are_tried(good):
    labeller = make_labeller("{{ '' if 'magic' in messages[0].content else raise_exception('no magic') }}" + PLAIN)
    rows = [row("magic" if index == good else "q", "a", line=index) for index in range(TRIED + 1)]
    if good < TRIED:
        assert label(rows, labeller)[1].kept == 1
    else:
        with pytest.raises(ConfigError, match="can label no conversation"):
            label(rows, labeller)
