"""From characters to tokens: the ids of serving, and labels on what touches the trained text."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sftcore import Conversation, RowError
from sftcore.core.types import IGNORE_INDEX
from sftcore.labelling import LabelledExample, Labeller
from sftcore.labelling.spans import Span
from sftcore.labelling.token_labels import label_tokens, tokens_in
from sftcore.tokenization import EncodedText, encode_text

from ..sizes import examples
from .test_labeller import talk

STOP = "<|im_end|>"


class Slow:
    """A tokenizer that tells no offsets."""

    is_fast = False

    def __init__(self, tokenizer: Any) -> None:
        self.fast = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fast, name)

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": self.fast(text, add_special_tokens=add_special_tokens)["input_ids"]}


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Any:
    return AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture(scope="module")
def fast(tokenizer: Any) -> Labeller:
    return Labeller(tokenizer, [STOP])


@pytest.fixture(scope="module")
def slow(tokenizer: Any) -> Labeller:
    return Labeller(Slow(tokenizer), [STOP])


@pytest.fixture
def byte_tokenizer() -> Any:
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


def one(made: Labeller, conversation: Conversation) -> LabelledExample:
    """Return the one example, whose ids are those of serving."""
    [example] = made.examples(conversation)
    messages = [message.to_dict() for message in conversation.messages]
    assert example.input_ids == made.tokenizer.apply_chat_template(messages, return_dict=False)
    assert all(label in (token, IGNORE_INDEX) for label, token in zip(example.labels, example.input_ids, strict=True))
    return example


def decoded(made: Labeller, example: LabelledExample) -> str:
    return str(made.tokenizer.decode([token for token in example.labels if token != IGNORE_INDEX]))


CONVERSATIONS = {
    "two turns": talk("What is 2+2?", "It is 4.", "Sure?", "Yes."),
    "empty": talk("q", "", "r", "x"),
    "white space": talk("  q \n", "a  b\n\nc ", "\n", "d\t"),
    "unicode": talk("你好", "早上好 🌅👩‍👩‍👧", "é", "é"),
    "stop in texts": talk("a<|im_end|>b", "c<|im_end|>d", "q", "<|im_end|>"),
    "header in texts": talk("<|im_start|>assistant\nx", "<|im_start|>user\nq<|im_end|>"),
}


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_labels_are_the_answers(fast: Labeller, slow: Labeller, conversation: Conversation) -> None:
    example = one(fast, conversation)
    answers = [message.content + STOP for message in conversation.messages if message.role == "assistant"]
    assert decoded(fast, example) == "".join(answers)
    assert [example.input_ids[at] for at in example.stops] == [fast.tokenizer.eos_token_id] * len(answers)
    other = one(slow, conversation)
    assert other.labels == example.labels
    assert (other.offsets, other.stops) == ([], [])


def test_random_texts_with_and_without_offsets(fast: Labeller, slow: Labeller) -> None:
    pieces = ["a", " ", "word", "é", "你", "🙂", STOP, "<|im_start|>", "1", "'s", "."]
    random_ = random.Random(5)
    for _ in range(60):
        conversation = talk(*("".join(random_.choices(pieces, k=4)) for _ in range(2 * random_.randint(1, 3))))
        example = one(fast, conversation)
        if any(message.content[:1] == " " for message in conversation.messages[1::2]):
            continue  # a blank joins the header's line break: see the next test
        assert one(slow, conversation).labels == example.labels


@pytest.mark.parametrize("content", [" \tanswer", "\n\nanswer"])
def test_a_token_across_the_border_of_a_turn_is_trained_with_it(fast: Labeller, slow: Labeller, content: str) -> None:
    conversation = talk("q", content)  # the header's line break and the answer's white space are one token
    assert decoded(fast, one(fast, conversation)) == "\n" + content + STOP
    with pytest.raises(RowError, match="a token crosses the boundary of a trained span"):
        slow.examples(conversation)


@pytest.mark.parametrize("content", ["a", " a", "\n\n a", ""])
@pytest.mark.parametrize("kind", [lambda tokenizer: tokenizer, Slow])
def test_a_marker_that_takes_white_space_is_never_trained(byte_tokenizer: Any, kind: Any, content: str) -> None:
    made = Labeller(kind(byte_tokenizer), ["</s>"])
    assert decoded(made, one(made, talk("q", content, "r", content))) == (content.strip() + "</s>") * 2


def test_the_first_token_is_never_trained(byte_tokenizer: Any) -> None:
    byte_tokenizer.chat_template = (
        "{% for m in messages if m.role == 'assistant' %}{{ m.content + '</s>' }}{% endfor %}"
    )
    example = one(Labeller(byte_tokenizer, ["</s>"]), talk("q", "abc"))
    assert example.labels == [IGNORE_INDEX, *example.input_ids[1:]]


@pytest.mark.parametrize("kind", ["fast", "slow"])
def test_half_a_character_is_a_bad_row(request: pytest.FixtureRequest, kind: str) -> None:
    with pytest.raises(RowError, match=r"^the text has the lone surrogate '\\ud83d', which is not a character$"):
        request.getfixturevalue(kind).examples(talk("q", "a\ud83d"))


def test_no_tokens_are_added(byte_tokenizer: Any) -> None:
    assert encode_text(byte_tokenizer, "") == EncodedText([], [])
    byte_tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    assert len(byte_tokenizer("ab")["input_ids"]) == 3
    assert [len(part) for part in encode_text(byte_tokenizer, "ab")] == [2, 2]
    assert encode_text(Slow(byte_tokenizer), "ab") == (encode_text(byte_tokenizer, "ab").ids, [])


ADDED = 9


def labels(offsets: list[tuple[int, int]], *spans: Span, added: int = -1) -> list[float]:
    """Return the weights of tokens 1, 2, 3 ... at *offsets*; *added* is the number of one that was added."""
    ids = [ADDED if index == added else index + 1 for index in range(len(offsets))]
    found, weights = label_tokens(None, EncodedText(ids, offsets), "", spans, {ADDED})
    assert found == [token if weight else IGNORE_INDEX for token, weight in zip(ids, weights, strict=True)]
    return weights


@pytest.mark.parametrize(
    ("spans", "added", "expected"),
    [
        ([], -1, [0, 0, 0, 0]),
        ([Span(2, 4, 1)], -1, [0, 1, 0, 0]),
        ([Span(3, 4, 1)], -1, [0, 1, 0, 0]),  # the token begins before
        ([Span(3, 5, 1)], -1, [0, 1, 1, 0]),  # and one ends after
        ([Span(3, 5, 1)], 1, [0, 0, 1, 0]),  # an added token that begins before belongs to the prompt
        ([Span(2, 5, 1)], 1, [0, 1, 1, 0]),  # but not one that begins there
        ([Span(2, 5, 1)], 2, [0, 1, 1, 0]),
        ([Span(0, 8, 1)], -1, [0, 1, 1, 1]),  # nothing predicts the first
        ([Span(0, 2, 1)], -1, [0, 0, 0, 0]),
        ([Span(2, 3, 0.5), Span(3, 6, 2)], -1, [0, 0.5, 2, 0]),  # the first to touch a token says what it weighs
        ([Span(2, 4, 0.5), Span(6, 8, 2)], -1, [0, 0.5, 0, 2]),
        ([Span(4, 4, 1)], -1, [0, 0, 0, 0]),
    ],
)
def test_a_token_is_trained_if_it_touches_a_span(spans: list[Span], added: int, expected: list[float]) -> None:
    assert labels([(0, 2), (2, 4), (4, 6), (6, 8)], *spans, added=added) == expected


def test_all_tokens_of_a_character_are_trained_with_it() -> None:
    assert labels([(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)], Span(1, 2, 1)) == [0, 1, 1, 1, 0]


ends = st.lists(st.integers(1, 3), min_size=1, max_size=8)


@examples(200)
@given(ends, st.lists(st.integers(0, 20), max_size=6, unique=True))
def test_tokens_in_ranges(lengths: list[int], edges: list[int]) -> None:
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    offsets = [(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    edges.sort()
    ranges = list(zip(edges[::2], edges[1::2], strict=False))
    touching = [at for at, (start, end) in enumerate(offsets) if any(start < b and a < end for a, b in ranges)]
    assert sorted(set(tokens_in(offsets, ranges))) == touching
    weights = labels(offsets, *(Span(*range_, 1) for range_ in ranges))
    assert [at for at, weight in enumerate(weights) if weight] == [at for at in touching if at]


def test_a_slow_tokenizer_says_so_where_a_border_is_within_a_token(byte_tokenizer: Any) -> None:
    slow = Slow(byte_tokenizer)
    text = "<|assistant|>  a"
    encoded = encode_text(slow, text)
    found, _ = label_tokens(slow, encoded, text, [Span(len(text) - 1, len(text), 1)], set())
    assert found == [IGNORE_INDEX, encoded.ids[-1]]
    with pytest.raises(RowError, match="a token crosses the boundary"):
        label_tokens(slow, encoded, text, [Span(3, len(text), 1)], set())
