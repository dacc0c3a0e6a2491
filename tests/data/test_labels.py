"""Labels: which tokens are trained, what is cut and dropped, with fast and with slow tokenizers."""

from __future__ import annotations

import random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sftcore import IGNORE_INDEX, Conversation, DataError, Message, Origin, RowError
from sftcore.data.conversations import Parsed
from sftcore.data.labels import label, label_one

STOP = "<|im_end|>"
CHATML = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def row(*texts, line=1, **assistant):
    roles = ["user", "assistant"] * len(texts)
    fields = [{}, assistant] * len(texts)
    return Parsed(
        Conversation(
            tuple(Message(role, text, **more) for role, text, more in zip(roles, texts, fields, strict=False))
        ),
        Origin("f", line),
    )


class Slow:
    """A tokenizer that tells no offsets."""

    is_fast = False

    def __init__(self, tokenizer):
        self.fast = tokenizer
        self.chat_template = tokenizer.chat_template
        self.apply_chat_template = tokenizer.apply_chat_template

    def __call__(self, text, add_special_tokens):
        return {"input_ids": self.fast(text, add_special_tokens=add_special_tokens)["input_ids"]}


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture
def byte_tokenizer():
    """Every byte is a token; the marker of a header takes the white space that follows it, as in Phi-3."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|assistant|>", rstrip=True, normalized=False), AddedToken("</s>")])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    made.chat_template = (
        "{% for m in messages %}{{ ('<|assistant|>' if m.role == 'assistant' else 'U:') + '\n' + m.content + '</s>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    return made


def messages(parsed):
    return [message.as_dict() for message in parsed.conversation.messages]


def decoded(tokenizer, labels):
    return tokenizer.decode([token for token in labels if token != IGNORE_INDEX])


CONVERSATIONS = {
    "two turns": row("What is 2+2?", "It is 4.", "Sure?", "Yes."),
    "empty": row("q", "", "r", "x"),
    "white space": row("  q \n", "a  b\n\nc ", "\n", "d\t"),
    "unicode": row("你好", "早上好 🌅👩‍👩‍👧", "é", "é"),
    "stop in texts": row("a<|im_end|>b", "c<|im_end|>d", "q", "<|im_end|>"),
    "header in texts": row("<|im_start|>assistant\nx", "<|im_start|>user\nq<|im_end|>"),
}


@pytest.mark.parametrize("parsed", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_ids_are_those_of_serving_and_labels_the_answers(tokenizer, parsed):
    ids, labels = label_one(parsed, tokenizer, [STOP])
    assert ids == tokenizer.apply_chat_template(messages(parsed), return_dict=False)
    assert all(label in (token, IGNORE_INDEX) for label, token in zip(labels, ids, strict=True))
    answers = [message.content + STOP for message in parsed.conversation.messages if message.role == "assistant"]
    assert decoded(tokenizer, labels) == "".join(answers)


@pytest.mark.parametrize("parsed", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_tokenizer_without_offsets_gives_the_same(tokenizer, parsed):
    assert label_one(parsed, Slow(tokenizer), [STOP]) == label_one(parsed, tokenizer, [STOP])


def test_random_texts_with_and_without_offsets(tokenizer):
    pieces = ["a", " ", "word", "é", "你", "🙂", STOP, "<|im_start|>", "1", "'s", "."]
    random_ = random.Random(5)
    for _ in range(100):
        parsed = row(*("".join(random_.choices(pieces, k=4)) for _ in range(2 * random_.randint(1, 3))))
        ids, labels = label_one(parsed, tokenizer, [STOP])
        assert ids == tokenizer.apply_chat_template(messages(parsed), return_dict=False)
        if any(message.content[:1] == " " for message in parsed.conversation.messages[1::2]):
            continue  # a blank joins the header's line break: see the next test
        assert (ids, labels) == label_one(parsed, Slow(tokenizer), [STOP])


@pytest.mark.parametrize("content", [" \tanswer", "\n\nanswer"])
def test_a_token_across_the_border_of_a_turn_is_trained_with_it(tokenizer, content):
    parsed = row("q", content)  # the header's line break and the answer's white space are one token
    ids, labels = label_one(parsed, tokenizer, [STOP])
    assert ids == tokenizer.apply_chat_template(messages(parsed), return_dict=False)
    assert decoded(tokenizer, labels) == "\n" + content + STOP
    with pytest.raises(RowError, match="a token crosses the border of a trained span"):
        label_one(parsed, Slow(tokenizer), [STOP])


@pytest.mark.parametrize("content", ["a", " a", "\n\n a", ""])
def test_a_marker_that_takes_white_space_is_never_trained(byte_tokenizer, content):
    parsed = row("q", content, "r", content)
    ids, labels = label_one(parsed, byte_tokenizer, ["</s>"])
    assert ids == byte_tokenizer.apply_chat_template(messages(parsed), return_dict=False)
    assert decoded(byte_tokenizer, labels) == (content.strip() + "</s>") * 2
    assert label_one(parsed, Slow(byte_tokenizer), ["</s>"]) == (ids, labels)


@pytest.mark.parametrize("slow", [False, True])
def test_half_a_character_is_a_bad_row(tokenizer, slow):
    with pytest.raises(DataError, match=r"f:1: the text has '\\ud83d', half of a surrogate pair"):
        label([row("q", "a\ud83d")], Slow(tokenizer) if slow else tokenizer, [STOP], 99)


def test_what_is_cut_and_dropped_is_counted(tokenizer):
    rows = [row("q", "a", line=1), row("q", "word " * 50, line=2), row("word " * 60, "a", line=3)]
    whole, _ = label(rows, tokenizer, [STOP], 999)
    examples, summary = label(rows, tokenizer, [STOP], 50)
    assert [example.origins[0].line for example in examples] == [1, 2]
    assert examples[0] == whole[0]
    assert examples[1].input_ids == whole[1].input_ids[:50]
    assert examples[1].labels == whole[1].labels[:50]
    assert (summary.rows, summary.kept, summary.dropped, summary.truncated) == (3, 2, 1, 1)
    assert (
        summary.tokens
        == sum(len(example.input_ids) for example in examples)
        == sum(sum(example.lengths) for example in examples)
    )
    assert summary.trained == sum(label != IGNORE_INDEX for example in examples for label in example.labels)
    assert summary.longest == max(len(example.input_ids) for example in whole)
    longest = len(whole[2].input_ids)
    assert summary.notes == [
        "1 rows were cut at max_length 50, and 1 dropped because the cut left nothing to train; "
        f"the longest has {longest} tokens"
    ]


def test_a_row_that_just_fits_is_not_cut(tokenizer):
    [example], _ = label([row("q", "a")], tokenizer, [STOP], 999)
    length = len(example.input_ids)
    [same], summary = label([row("q", "a")], tokenizer, [STOP], length)
    assert same == example
    assert (summary.truncated, summary.notes) == (0, [])
    _, summary = label([row("q", "a")], tokenizer, [STOP], length - 1)
    assert summary.truncated == 1


def test_nothing_left_to_train_is_an_error(tokenizer):
    with pytest.raises(
        DataError, match=r"no trained token is left within max_length 9 in any row \(of 4; see f:0, f:1, f:2\)"
    ):
        label([row("q", "a", line=line) for line in range(4)], tokenizer, [STOP], 9)
    assert label([], tokenizer, [STOP], 9)[0] == []


def test_the_first_token_is_never_trained(byte_tokenizer):
    byte_tokenizer.chat_template = (
        "{% for m in messages if m.role == 'assistant' %}{{ m.content + '</s>' }}{% endfor %}"
    )
    [example], summary = label([row("q", "abc")], byte_tokenizer, ["</s>"], 99)
    assert example.labels == [IGNORE_INDEX, *example.input_ids[1:]]
    assert summary.trained == 3


def test_rows_that_cannot_be_labelled_are_told_together(tokenizer):
    with pytest.raises(DataError) as raised:
        label([row("q", "a", line=line) for line in range(1, 6)], tokenizer, ["<never>"], 99)
    head, *told = str(raised.value).splitlines()
    assert head.startswith("5 rows cannot be used")
    assert [line.split()[0] for line in told] == [f"f:{line}:" for line in range(1, 6)]
    assert "prints no stop string" in told[0]


@pytest.mark.parametrize(("use", "noted"), [("", True), ("{# tools reasoning_content #}", False)])
def test_what_the_template_does_not_print_is_noted(tokenizer, use, noted):
    parsed = row("q", "a", reasoning_content="hm")
    parsed = Parsed(Conversation(parsed.conversation.messages, ({"type": "function"},)), parsed.origin)
    before = tokenizer.chat_template
    try:
        tokenizer.chat_template = CHATML + use
        _, summary = label([parsed, row("q", "a")], tokenizer, [STOP], 99)
    finally:
        tokenizer.chat_template = before
    expected = [f"1 rows have {what}, which this chat template does not print" for what in ("tools", "reasoning")]
    assert summary.notes == (expected if noted else [])
