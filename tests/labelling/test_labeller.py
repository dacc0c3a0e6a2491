"""What a person may choose: which turns are trained, with what weight, with or without reasoning and stop token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sftcore import Conversation, Message, RowError
from sftcore.core.types import IGNORE_INDEX
from sftcore.labelling import LabelledConversation, LabelledExample, Labeller, LabelWarning, Policy

PLAIN = (
    "{% for m in messages %}{{ '[' + m.role + ']' + m.content + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
THINKS = PLAIN.replace(
    "m.content", "('<think>' + m.reasoning_content + '</think>' if m.reasoning_content else '') + m.content"
)
FORGETS = THINKS.replace("if m.reasoning_content", "if m.reasoning_content and loop.last")
"""Reasoning is printed for the last message alone, so that earlier turns are printed differently later."""
OPENS = THINKS.replace("{{ '[assistant]' }}", "{{ '[assistant]<think>' }}")
"""The generation prompt opens the reasoning."""

MARKERS = [
    *("[system]", "[user]", "[assistant]", "[tool]", "<|im_start|>", "<|im_end|>"),
    *("<s>", "</s>", "<think>", "</think>", "?!"),
]


def tokenizer(source: str = PLAIN, **special: str) -> Any:
    """Return a tokenizer to which every marker and every other byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(marker, normalized=False) for marker in MARKERS])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **{"eos_token": "</s>", **special})
    made.chat_template = source
    return made


def labeller(source: str = PLAIN, stops: Sequence[str] = ("</s>",), **variables: Any) -> Labeller:
    return Labeller(tokenizer(source), stops, variables)


def talk(*texts: str, system: str | None = None, **assistant: Any) -> Conversation:
    """Return a conversation of user and assistant; *assistant* has further fields of the latter."""
    roles = ["user", "assistant"] * len(texts)
    messages = [Message("system", system)] if system is not None else []
    for role, text in zip(roles, texts, strict=False):
        messages.append(Message(role, text, **(assistant if role == "assistant" else {})))
    return Conversation(tuple(messages))


def thought(*texts: str) -> Conversation:
    """Return a conversation whose assistant thinks "hm" before each answer."""
    return talk(*texts, reasoning_content="hm")


def marked(example: LabelledExample) -> str:
    """Return the text of *example*, what is trained in brackets."""
    trained = {
        at
        for (start, end), label in zip(example.offsets, example.labels, strict=True)
        for at in range(start, end)
        if label != IGNORE_INDEX
    }
    runs = groupby(enumerate(example.text), key=lambda letter: letter[0] in trained)
    return "".join(f"⟦{text}⟧" if on else text for on, run in runs for text in ["".join(letter for _, letter in run)])


def trained(labelling: LabelledConversation | list[LabelledExample]) -> list[str]:
    examples = labelling.examples if isinstance(labelling, LabelledConversation) else labelling
    return [marked(example) for example in examples]


def said(labelling: LabelledConversation) -> dict[LabelWarning, int]:
    """Return its warnings."""
    return {warning: times for warning, times in labelling.warnings.items() if times}


def weighed(example: LabelledExample) -> list[tuple[str, float]]:
    """Return the stretches of the text of one weight each, but for those that are not trained."""
    weights = example.weights or [float(label != IGNORE_INDEX) for label in example.labels]
    tokens = [(example.text[start:end], w) for (start, end), w in zip(example.offsets, weights, strict=True)]
    runs = groupby(tokens, key=lambda token: token[1])
    return [("".join(text for text, _ in run), weight) for weight, run in runs if weight]


TWO = talk("q", "a", "r", "b", system="S")
TWO_TEXT = "[system]S</s>[user]q</s>[assistant]a</s>[user]r</s>[assistant]b</s>"


@pytest.mark.parametrize(
    ("train_on", "expected"),
    [
        ("assistant", "[system]S</s>[user]q</s>[assistant]⟦a</s>⟧[user]r</s>[assistant]⟦b</s>⟧"),
        ("last_turn", "[system]S</s>[user]q</s>[assistant]a</s>[user]r</s>[assistant]⟦b</s>⟧"),
        ("all", "[system]⟦S</s>[user]q</s>[assistant]a</s>[user]r</s>[assistant]b</s>⟧"),  # nothing predicts the first
        (["assistant"], "[system]S</s>[user]q</s>[assistant]⟦a</s>⟧[user]r</s>[assistant]⟦b</s>⟧"),
        (["user"], "[system]S</s>[user]⟦q⟧</s>[assistant]a</s>[user]⟦r⟧</s>[assistant]b</s>"),
        (["system", "assistant"], "[system]⟦S⟧</s>[user]q</s>[assistant]⟦a</s>⟧[user]r</s>[assistant]⟦b</s>⟧"),
    ],
)
def test_train_on(train_on: Any, expected: str) -> None:
    [example] = labeller().examples(TWO, Policy(train_on=train_on))
    assert marked(example) == expected
    assert example.text == TWO_TEXT
    assert example.weights is None
    assert all(label in (token, IGNORE_INDEX) for label, token in zip(example.labels, example.input_ids, strict=True))
    assert example.trained == sum(label != IGNORE_INDEX for label in example.labels)


def test_train_on_tools() -> None:
    conversation = Conversation((*TWO.messages[1:3], Message("tool", "42"), Message("assistant", "b")))
    assert trained(labeller().examples(conversation, Policy(train_on=["tool"]))) == [
        "[user]q</s>[assistant]a</s>[tool]⟦42⟧</s>[assistant]b</s>"
    ]


@pytest.mark.parametrize("train_on", [[], ["tool"], "last_turn", "assistant"])
def test_nothing_is_to_be_trained(train_on: Any) -> None:
    done = labeller().label(talk("q"), Policy(train_on=train_on))
    assert (done.examples, done.longest, said(done)) == ([], 0, {})


@pytest.mark.parametrize(
    ("train_on", "train", "expected"),
    [
        ("assistant", {2: False}, "[system]S</s>[user]q</s>[assistant]a</s>[user]r</s>[assistant]⟦b</s>⟧"),
        ("assistant", {1: True}, "[system]S</s>[user]⟦q⟧</s>[assistant]⟦a</s>⟧[user]r</s>[assistant]⟦b</s>⟧"),
        ("last_turn", {2: True}, "[system]S</s>[user]q</s>[assistant]⟦a</s>⟧[user]r</s>[assistant]⟦b</s>⟧"),
        ("last_turn", {4: False}, None),
        ("all", {2: False}, "[system]⟦S</s>[user]q</s>[assistant]⟧a</s>⟦[user]r</s>[assistant]b</s>⟧"),
        ("all", {3: False, 0: False}, "[system]S⟦</s>[user]q</s>[assistant]a</s>[user]⟧r⟦</s>[assistant]b</s>⟧"),
        (["user"], {4: True, 3: False}, "[system]S</s>[user]⟦q⟧</s>[assistant]a</s>[user]r</s>[assistant]⟦b</s>⟧"),
        ([], {2: True}, "[system]S</s>[user]q</s>[assistant]⟦a</s>⟧[user]r</s>[assistant]b</s>"),
    ],
)
def test_a_message_may_say_itself_if_it_is_trained(train_on: Any, train: dict[int, bool], expected: str | None) -> None:
    messages = [replace(m, train=train[at]) if at in train else m for at, m in enumerate(TWO.messages)]
    done = trained(labeller().examples(Conversation(tuple(messages)), Policy(train_on=train_on)))
    assert done == ([expected] if expected else [])


def with_weights(*weights: float) -> Conversation:
    pairs = zip(TWO.messages, weights, strict=True)
    return Conversation(tuple(replace(message, weight=weight) for message, weight in pairs))


@pytest.mark.parametrize(
    ("weights", "policy", "expected"),
    [
        ((1, 1, 2, 1, 0.5), Policy(), [("a</s>", 2), ("b</s>", 0.5)]),
        ((1, 1, 2, 1, 0.5), Policy(weight=2), [("a</s>", 4), ("b</s>", 1)]),
        ((1, 1, 0, 1, 1), Policy(), [("b</s>", 1)]),
        ((1, 1, 0, 1, 1), Policy(weight=0.25), [("b</s>", 0.25)]),
        ((3, 2, 1, 1, 1), Policy(train_on=["user", "system"]), [("S", 3), ("q", 2), ("r", 1)]),
        (
            *((1, 0, 1, 2, 1), Policy(train_on="all", weight=2)),
            [("S</s>[user]", 2), ("</s>[assistant]a</s>[user]", 2), ("r", 4), ("</s>[assistant]b</s>", 2)],
        ),
    ],
)
def test_weights(weights: Sequence[float], policy: Policy, expected: list[tuple[str, float]]) -> None:
    [example] = labeller().examples(with_weights(*weights), policy)
    assert weighed(example) == expected
    assert (example.weights is None) == all(weight == 1 for _, weight in expected)
    pairs = zip(example.weights or [], example.labels, strict=False)
    assert all((weight > 0) == (label != IGNORE_INDEX) for weight, label in pairs)


@pytest.mark.parametrize(
    ("conversation", "policy"),
    [(with_weights(0, 0, 0, 0, 0), Policy()), (TWO, Policy(weight=0)), (TWO, Policy(weight=0, train_on="all"))],
)
def test_what_weighs_nothing_is_not_trained(conversation: Conversation, policy: Policy) -> None:
    assert labeller().examples(conversation, policy) == []


def test_a_turn_that_weighs_nothing_is_none_of_those_that_are_trained() -> None:
    [example] = labeller().examples(with_weights(1, 1, 0, 1, 1))
    assert example.turns == (4,)


@pytest.mark.parametrize(("reasoning", "before"), [("train", "⟦<think>hm</think>{}"), ("mask", "<think>hm</think>⟦{}")])
@pytest.mark.parametrize("inline", [False, True])
def test_reasoning(reasoning: Any, before: str, inline: bool) -> None:
    conversation = talk("q", "<think>hm</think>a") if inline else thought("q", "a")
    [example] = labeller(THINKS).examples(conversation, Policy(reasoning=reasoning))
    assert marked(example) == "[user]q</s>[assistant]" + before.format("a</s>⟧")


@pytest.mark.parametrize(
    ("source", "conversation", "expected"),
    [
        (OPENS, thought("q", "a"), "[user]q</s>[assistant]<think>hm</think>⟦a</s>⟧"),
        (THINKS, talk("q", "a", "r", "b"), "[user]q</s>[assistant]⟦a</s>⟧[user]r</s>[assistant]⟦b</s>⟧"),
        (THINKS, thought("q", ""), "[user]q</s>[assistant]<think>hm</think>⟦</s>⟧"),
        (THINKS, talk("q", "a <think>hm</think>"), "[user]q</s>[assistant]⟦a <think>hm</think></s>⟧"),
        (PLAIN, talk("q", "<think>hm"), "[user]q</s>[assistant]⟦<think>hm</s>⟧"),
        (
            PLAIN,
            talk("q", "\n<think>\nh\nm\n</think>\n\na"),
            "[user]q</s>[assistant]\n<think>\nh\nm\n</think>\n\n⟦a</s>⟧",
        ),
        (OPENS, talk("q", "<think>hm</think>a"), "[user]q</s>[assistant]<think>hm</think>⟦a</s>⟧"),
    ],
)
def test_what_is_masked_of_reasoning(source: str, conversation: Conversation, expected: str) -> None:
    [example] = labeller(source).examples(conversation, Policy(reasoning="mask"))
    assert marked(example) == expected


def test_reasoning_is_masked_in_every_turn() -> None:
    [example] = labeller(THINKS).examples(thought("q", "a", "r", "b"), Policy(reasoning="mask"))
    turns = ["<think>hm</think>⟦a</s>⟧", "<think>hm</think>⟦b</s>⟧"]
    assert marked(example) == f"[user]q</s>[assistant]{turns[0]}[user]r</s>[assistant]{turns[1]}"


def test_a_stop_that_is_not_trained() -> None:
    [example] = labeller().examples(TWO, Policy(train_on_stop=False))
    assert marked(example) == "[system]S</s>[user]q</s>[assistant]⟦a⟧</s>[user]r</s>[assistant]⟦b⟧</s>"
    assert example.stops == []


def test_stops_are_the_positions_of_trained_stop_tokens() -> None:
    made = labeller()
    [example] = made.examples(TWO)
    assert [made.tokenizer.convert_ids_to_tokens(example.input_ids[at]) for at in example.stops] == ["</s>"] * 2
    assert all(example.labels[at] == example.input_ids[at] for at in example.stops)
    [example] = made.examples(TWO, Policy(train_on="last_turn"))
    assert example.stops == [len(example.input_ids) - 1]


# context

REREAD = PLAIN.replace("m.content", "(m.content if loop.last else m.content | upper)")
"""Messages are printed differently once others follow, even those before a turn."""
OTHER_PROMPT = PLAIN.replace("{{ '[assistant]' }}", "{{ '[assistant]<think>' }}")
"""The generation prompt opens a reasoning that no turn has."""


def test_a_turn_that_reads_otherwise_later_is_trained_in_an_example_of_its_own() -> None:
    done = labeller(FORGETS).label(thought("q", "a", "r", "b"))
    assert trained(done) == [
        "[user]q</s>[assistant]⟦<think>hm</think>a</s>⟧",
        "[user]q</s>[assistant]a</s>[user]r</s>[assistant]⟦<think>hm</think>b</s>⟧",
    ]
    assert [(example.messages, example.turns, example.skipped) for example in done.examples] == [
        (2, (1,), 0),
        (4, (3,), 0),
    ]
    assert said(done) == {LabelWarning.OWN_EXAMPLE: 1}


def test_turns_that_read_alike_share_an_example() -> None:
    messages = talk("q", "a", "r", "b", "s", "c").messages
    mixed = Conversation((*messages[:3], replace(messages[3], reasoning_content="hm"), *messages[4:]))
    done = labeller(FORGETS).label(mixed)
    assert [example.turns for example in done.examples] == [(1, 3), (5,)]
    assert done.longest == len(done.examples[1].input_ids)


@pytest.mark.parametrize(
    ("source", "context", "expected", "warnings"),
    [
        (
            FORGETS,
            "whole",
            ["[user]q</s>[assistant]⟦a</s>⟧[user]r</s>[assistant]⟦<think>hm</think>b</s>⟧"],
            {LabelWarning.NO_REASONING: 1},
        ),
        (FORGETS, "strict", None, {LabelWarning.OWN_EXAMPLE: 1}),
        (
            OTHER_PROMPT,
            "served",
            ["[user]q</s>[assistant]⟦a</s>⟧[user]r</s>[assistant]⟦b</s>⟧"],
            {LabelWarning.OTHER_PROMPT: 2},
        ),
        (OTHER_PROMPT, "strict", [], {LabelWarning.NOT_AS_SERVED: 2}),
        (
            OTHER_PROMPT,
            "whole",
            ["[user]q</s>[assistant]⟦a</s>⟧[user]r</s>[assistant]⟦b</s>⟧"],
            {LabelWarning.OTHER_PROMPT: 2},
        ),
        (REREAD, "served", [], {LabelWarning.NOT_AS_SERVED: 2}),
        (REREAD, "strict", [], {LabelWarning.NOT_AS_SERVED: 2}),
        (
            REREAD,
            "whole",
            ["[user]Q</s>[assistant]⟦A</s>⟧[user]R</s>[assistant]⟦b</s>⟧"],
            {LabelWarning.REWRITTEN_HISTORY: 2},
        ),
        (PLAIN, "strict", ["[user]q</s>[assistant]⟦a</s>⟧[user]r</s>[assistant]⟦b</s>⟧"], {}),
    ],
)
def test_context(source: str, context: Any, expected: list[str] | None, warnings: Any) -> None:
    conversation = thought("q", "a", "r", "b") if source == FORGETS else talk("q", "a", "r", "b")
    done = labeller(source).label(conversation, Policy(context=context))
    assert trained(done) == (trained(labeller(source).label(conversation)) if expected is None else expected)
    assert said(done) == warnings


def test_each_text_is_the_templates() -> None:
    made = labeller(FORGETS)
    for conversation in (TWO, thought("q", "a", "r", "b")):
        for example in made.examples(conversation):
            messages = [message.to_dict() for message in conversation.messages[: example.messages]]
            assert example.text == made.tokenizer.apply_chat_template(messages, tokenize=False)
            assert example.input_ids == made.tokenizer.apply_chat_template(messages, return_dict=False)


def test_all_but_a_turn_that_comes_first() -> None:
    messages = (Message("assistant", "hello", train=False), *TWO.messages[1:3])
    assert trained(labeller().examples(Conversation(messages), Policy(train_on="all"))) == [
        "[assistant]hello</s>⟦[user]q</s>[assistant]a</s>⟧"
    ]


def test_all_trains_each_turn_once() -> None:
    first, whole = trained(labeller(FORGETS).examples(thought("q", "a", "r", "b"), Policy(train_on="all")))
    assert first == "[user]q</s>[assistant]⟦<think>hm</think>a</s>⟧"
    assert whole == "[user]⟦q</s>[assistant]⟧a</s>⟦[user]r</s>[assistant]<think>hm</think>b</s>⟧"


# the labeller itself


def test_variables_of_the_template() -> None:
    source = "{{ bos_token }}{{ eos_token }}{{ x }}" + PLAIN
    made = Labeller(tokenizer(source, bos_token="<s>"), ["</s>"], {"x": "X"})
    assert trained(made.examples(talk("q", "a"))) == ["<s></s>X[user]q</s>[assistant]⟦a</s>⟧"]
    own = replace(talk("q", "a"), template_kwargs={"x": "Y"})
    assert trained(made.examples(own)) == ["<s></s>Y[user]q</s>[assistant]⟦a</s>⟧"]
    assert trained(made.examples(talk("q", "a"))) == ["<s></s>X[user]q</s>[assistant]⟦a</s>⟧"]


def test_a_template_that_reads_thinking_gets_the_reasoning() -> None:
    conversation = thought("q", "a")
    made = labeller(THINKS.replace("m.reasoning_content", "m.thinking"))
    [example] = made.examples(conversation)
    assert marked(example) == "[user]q</s>[assistant]⟦<think>hm</think>a</s>⟧"
    messages = [message.to_dict() for message in conversation.messages]
    assert example.text == made.tokenizer.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize("arguments", [{"x": "é"}, '{"x": "é"}'])
def test_a_template_that_wants_arguments_as_text_gets_them_encoded_once(arguments: Any) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    f = "m.tool_calls[0].function"
    made = labeller(PLAIN.replace("m.content", f"(m.content if not m.tool_calls else {f}.name + {f}.arguments)"))
    conversation = Conversation((Message("user", "q"), Message("assistant", "", tool_calls=(call,))))
    assert trained(made.examples(conversation)) == ['[user]q</s>[assistant]⟦f{"x": "é"}</s>⟧']


def test_a_prompt_that_depends_on_a_variable_is_not_taken_from_another_row() -> None:
    made = labeller(PLAIN.replace("{{ '[assistant]' }}", "{{ '[assistant]' }}{{ x }}"))
    rows = [replace(talk("q", f"{x}a"), template_kwargs={"x": x}) for x in ("", "X", "Y", "")]
    assert [trained(made.examples(row)) for row in rows] == [
        [f"[user]q</s>[assistant]{x}⟦a</s>⟧"] for x in ("", "X", "Y", "")
    ]


def test_a_user_cannot_forge_the_prompt() -> None:
    over = "messages | rejectattr('role', 'equalto', 'tool') | list"
    made = labeller(PLAIN.replace("in messages", f"in {over}"))
    forged = talk("q</s>[assistant]mine", "a")
    rows = [replace(row, template_kwargs={"x": 1}) for row in (talk("q", "a"), forged)]
    assert [trained(made.examples(row)) for row in rows] == [
        ["[user]q</s>[assistant]⟦a</s>⟧"],
        ["[user]q</s>[assistant]mine</s>[assistant]⟦a</s>⟧"],
    ]


CHATML = PLAIN.replace("'[' + m.role + ']'", "'<|im_start|>' + m.role + '\n'").replace("</s>", "<|im_end|>\n")
CHATML = CHATML.replace("'[assistant]'", "'<|im_start|>assistant\n'")


@pytest.mark.parametrize(
    ("source", "stops", "found"),
    [
        (PLAIN, ["</s>"], ["</s>"]),
        (PLAIN, ["</s>", "<|im_end|>", "</s>"], ["</s>", "<|im_end|>"]),
        (CHATML, ["</s>"], ["</s>", "<|im_end|>"]),  # the tokenizer's end token is that of the base model
        (CHATML, [], ["<|im_end|>"]),
        (PLAIN.replace("</s>", ""), ["<|im_end|>"], ["<|im_end|>"]),
        (PLAIN.replace("m.content + '</s>'", "m.content + ('</s>.' if loop.last else '')"), [], ["</s>"]),
    ],
)
def test_the_stop_that_a_template_prints_is_found(source: str, stops: list[str], found: list[str]) -> None:
    made = Labeller(tokenizer(source), stops)
    assert list(made.stops) == found


def test_a_chat_template_that_is_not_valid() -> None:
    with pytest.raises(ValueError, match="line 1: "):
        labeller("{% for")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (PLAIN, ""),
        (PLAIN.replace("m.content", "''"), "the template prints nothing of what the assistant wrote"),
        ("{{ raise_exception('no') }}", "the chat template rejects it: no"),
        (PLAIN.split("{% if")[0], "has no generation prompt, yet prints '[assistant]' before the turn"),
    ],
)
def test_a_template_under_which_nothing_can_be_labelled(source: str, problem: str) -> None:
    made = labeller(source)
    assert problem in made.problem
    assert bool(made.problem) == bool(problem)
    if problem:
        with pytest.raises(RowError):
            made.examples(talk("q", "a"))


def test_a_template_under_which_no_turn_reads_as_it_is_served() -> None:
    made = labeller(REREAD)
    assert made.problem == LabelWarning.NOT_AS_SERVED.text(2)
    assert made.examples(talk("q", "a")) == []


def test_what_is_labelled_is_not_changed_and_nothing_is_kept() -> None:
    made = labeller(FORGETS)
    conversation = thought("q", "a", "r", "b")
    before = repr(conversation)
    first = made.label(conversation)
    made.label(talk("other", "texts"))
    assert made.label(conversation) == first
    assert repr(conversation) == before
