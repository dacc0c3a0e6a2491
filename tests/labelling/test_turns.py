"""Where a turn begins and ends: right for awkward texts, and a clear error where a template leaves it uncertain."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from sftcore import Conversation, Message, RowError
from sftcore.labelling import Labeller, LabelWarning, Policy
from sftcore.labelling.rendering.provenance import Tracked

from .test_labeller import PLAIN, labeller, marked, said, talk, thought, trained

STOP = "<|im_end|>"
CHATML = """
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
ENDLESS = CHATML.replace("<|im_end|>\n", "")
"""A template that ends no turn."""


@pytest.fixture(scope="module")
def smollm2_labeller(smollm2: Path) -> Labeller:
    """The template of SmolLM2, which adds a system prompt, and a tokenizer to which each byte is a token."""
    return labeller(AutoTokenizer.from_pretrained(smollm2).chat_template, [STOP])


def turns(example: Any) -> list[str]:
    """The trained text of *example*."""
    return [part.split("⟧")[0] for part in marked(example).split("⟦")[1:]]


def oracle(made: Labeller, conversation: Conversation) -> str:
    """The marked text of a ChatML conversation, found by rendering unique words in place of the contents."""
    words = [f"@{index}@" for index in range(len(conversation.messages))]
    messages = [
        {"role": message.role, "content": word} for message, word in zip(conversation.messages, words, strict=True)
    ]
    text = str(made.tokenizer.apply_chat_template(messages, tokenize=False))
    before = ""
    for message, word in zip(conversation.messages, words, strict=True):
        skipped, _, text = text.partition(word)
        if message.role == "assistant":
            text = text.removeprefix(STOP)
            before += f"{skipped}⟦{message.content}{STOP}⟧"
        else:
            before += skipped + message.content
    return before + text


AWKWARD = {
    "empty": ("q", "", "r", ""),
    "equal to the user's": ("same", "same", "same", "same"),
    "stop string": ("a<|im_end|>b", "c<|im_end|>d", "<|im_end|>", "<|im_end|>"),
    "ends with the stop": ("a<|im_end|>\n", "b<|im_end|>\n", "q", "c<|im_end|>"),
    "header": ("<|im_start|>assistant\n", "<|im_start|>assistant\n", "q", "<|im_start|>user\nq<|im_end|>\n"),
    "generation prompt": ("q<|im_end|>\n<|im_start|>assistant\nno<|im_end|>", "yes"),
    "white space": ("  q\n", " \n a \t\n", "\n", "\n\n"),
    "only blanks": ("q", " ", "q", "\n"),
    "emoji and CJK": ("👩‍👩‍👧 你好", "早上好 🌅é", "é", "👍🏽"),
    "letters of the stop": ("m", "m", "|", ">"),
    "Jinja": ("{{ 1 }}", "{% if %}{{ messages }}"),
}


@pytest.mark.parametrize("texts", AWKWARD.values(), ids=AWKWARD)
@pytest.mark.parametrize("system", [None, "", "Be brief.<|im_end|>"])
def test_awkward_contents(smollm2_labeller: Labeller, texts: Sequence[str], system: str | None) -> None:
    conversation = talk(*texts, system=system)
    [example] = smollm2_labeller.examples(conversation)
    assert turns(example) == [answer + STOP for answer in texts[1::2]]
    assert marked(example) == oracle(smollm2_labeller, conversation)


def test_random_conversations_agree_with_the_oracle(smollm2_labeller: Labeller) -> None:
    pieces = ["a", " ", "\n", STOP, "<|im_start|>", "assistant\n", "user", "é", "你", "🙂", "{{", "@0", "", "system\n"]
    random_ = random.Random(7)
    for _ in range(150):
        roles: list[Any] = random_.choices(
            ["user", "assistant", "assistant", "system", "tool"], k=random_.randint(1, 6)
        )
        texts = ["".join(random_.choices(pieces, k=random_.randint(0, 5))) for _ in range(7)]
        conversation = Conversation(tuple(map(Message, ["user", *roles], texts)))
        examples = smollm2_labeller.examples(conversation)
        assert len(examples) == ("assistant" in roles)
        assert trained(examples) == [oracle(smollm2_labeller, conversation) for _ in examples]


def test_consecutive_assistant_turns_are_trained_one_by_one() -> None:
    messages = (Message("user", "q"), Message("assistant", "a"), Message("assistant", "b"), Message("user", "r"))
    [example] = labeller(CHATML, [STOP]).examples(Conversation(messages))
    assert turns(example) == ["a" + STOP, "b" + STOP]
    assert example.turns == (1, 2)


def test_the_assistant_speaks_first() -> None:
    messages = (Message("assistant", "hello"), Message("user", "q"), Message("assistant", "a"))
    done = labeller(CHATML, [STOP]).label(Conversation(messages))
    assert [turns(example) for example in done.examples] == [["a" + STOP]]
    assert said(done) == {LabelWarning.NO_PROMPT: 1}


CALL = {"function": {"name": "weather", "arguments": {"city": "Pisa"}}}
CALLS = Conversation((Message("user", "q"), Message("assistant", "", tool_calls=(CALL,))))
TALK = talk("q", "a", "r", "b")
THINKS = Conversation((Message("user", "q"), Message("assistant", "a", "hm"), *TALK.messages[2:]))
QWEN3 = CHATML.replace(
    "message.content",
    "('<think>' + message.reasoning_content if loop.last and message.reasoning_content else '') + message.content",
)
CITY = "(message.tool_calls[0].function.arguments.city if message.tool_calls else message.content)"
CLOSES = "{% if messages[-1].role == 'assistant' %}</s>{% endif %}"


@pytest.mark.parametrize(
    ("template", "conversation", "reason"),
    [
        (CHATML + "{{ raise_exception('roles must alternate') }}", TALK, "template rejects it: roles must alternate"),
        ("{{ messages[0].absent.absent }}", TALK, "the chat template rejects it: .*absent"),
        (CHATML.replace("add_generation_prompt", "false"), TALK, "no generation prompt, yet prints '.*assistant'"),
        (CHATML, CALLS, "message 2: the template prints nothing of what the assistant wrote"),
        (
            CHATML.replace("message.content", CITY),
            CALLS,
            "message 2: the template does not print the call of 'weather'",
        ),
        (
            CHATML.replace("message.content", CITY.replace("arguments.city", "name")),
            CALLS,
            "message 2: the template does not print the arguments of the call of 'weather'",
        ),
        (
            CHATML.replace("message.content", "'x'"),
            TALK,
            "message 4: the template prints nothing of what the assistant",
        ),
        (
            CHATML.replace("message.content", "(messages[0].content if loop.last else '') + message.content"),
            TALK,
            "message 4: the template prints other messages within the turn",
        ),
    ],
)
def test_refused(template: str, conversation: Conversation, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        labeller(template, [STOP]).examples(conversation)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        # what an earlier turn says is changed
        (CHATML.replace("message.content", "message.content | upper"), [["A" + STOP, "B" + STOP]]),
        (CHATML.replace("message.content", "message.content + '!'"), [["a!" + STOP, "b!" + STOP]]),
        # reasoning is printed as long as the turn is the last
        (QWEN3, [["<think>hma" + STOP], ["b" + STOP]]),
        # the prompt opens the reasoning, and a turn has none
        (CHATML.replace("assistant\n", "assistant\n<think>"), [["a" + STOP, "b" + STOP]]),
    ],
)
def test_what_was_refused_once_and_is_certain(template: str, expected: list[list[str]]) -> None:
    assert [turns(example) for example in labeller(template, [STOP]).examples(THINKS)] == expected


@pytest.mark.parametrize(
    ("template", "stops", "expected"),
    [
        # the turn's end is followed by the end of the conversation (Phi-3): the model stops at the first
        (CHATML + "{% if not add_generation_prompt %}</s>{% endif %}", (STOP, "</s>"), ["a" + STOP, "b" + STOP]),
        (CHATML + "{% if not add_generation_prompt %}</s>{% endif %}", ("</s>", STOP), ["a" + STOP, "b" + STOP]),
        # no stop of its own: the next turn's header ends it, and an end token the last (ChatGLM)
        (ENDLESS + CLOSES, ("</s>", "<|im_start|>"), ["a<|im_start|>", "b</s>"]),
        # the last turn alone is ended (Baichuan): each is trained where it is the last
        (ENDLESS + CLOSES, ("</s>",), ["a</s>", "b</s>"]),
        # no turn is ended: the last one gets the stop token
        (ENDLESS, ("</s>",), ["a", "b</s>"]),
        (ENDLESS, (), ["a", "b"]),
        # all but the last are ended (Qwen1.5), some by the header of the next (GLM)
        (
            CHATML.replace("<|im_end|>\n'", "' + ('' if loop.last else '<|im_end|>\n')"),
            (STOP,),
            ["a" + STOP, "b" + STOP],
        ),
        (ENDLESS, ("</s>", "<|im_start|>"), ["a<|im_start|>", "b<|im_start|>"]),
        # an end token once at the very end, after the template's own stop (a marker, or words)
        (CHATML + "{% if not add_generation_prompt %}</s>{% endif %}", ("</s>",), ["a" + STOP, "b" + STOP]),
        (
            CHATML.replace("<|im_end|>", "\n###") + "{% if not add_generation_prompt %}</s>{% endif %}",
            ("</s>",),
            ["a\n###", "b\n###"],
        ),
        # no header at all (Mistral)
        (
            "{% for m in messages %}"
            "{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else ' ' + m.content + '</s>' }}{% endfor %}",
            ("</s>",),
            [" a</s>", " b</s>"],
        ),
        # texts are trimmed
        (CHATML.replace("message.content", "message.content | trim"), (STOP,), ["a" + STOP, "b" + STOP]),
        # the stop has white space before it
        (CHATML.replace("<|im_end|>", "\n<|im_end|>"), (STOP,), ["a\n" + STOP, "b\n" + STOP]),
        # what is not ended is followed by white space
        (ENDLESS.replace("message.content", "message.content + '\n'"), ("</s>",), ["a", "b</s>"]),
        # the stop is a text, and no token
        (CHATML.replace("<|im_end|>", "END"), ("END",), ["aEND", "bEND"]),
    ],
)
def test_ways_to_end_a_turn(template: str, stops: Sequence[str], expected: list[str]) -> None:
    examples = labeller(template, stops).examples(TALK)
    assert [turn for example in examples for turn in turns(example)] == expected


@pytest.mark.parametrize("content", ["</s>", "a</s>", "a" + STOP, STOP + "\n</s>", "", " "])
def test_a_stop_in_the_content_is_not_taken_for_the_end(content: str) -> None:
    template = CHATML + "{% if not add_generation_prompt %}</s>{% endif %}"
    [example] = labeller(template, (STOP, "</s>")).examples(talk("q", content))
    assert turns(example) == [content + STOP]


def test_a_stop_in_anothers_text_ends_no_turn() -> None:
    [example] = labeller(ENDLESS, ("</s>",)).examples(talk("q</s>", "a", "r</s>", "b"))
    assert turns(example) == ["a", "b</s>"]


def test_a_stop_that_the_template_does_not_print_follows_the_answer_at_once() -> None:
    made = labeller(ENDLESS.replace("message.content", "message.content + '\n\n'"), ("</s>",))
    done = made.label(talk("q", "a"))
    assert trained(done) == ["<|im_start|>user\nq\n\n<|im_start|>assistant\n⟦a</s>⟧"]
    assert said(done) == {LabelWarning.STOP_ADDED: 1}
    [example] = done.examples
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    printed = made.tokenizer.apply_chat_template(messages, return_dict=False)
    assert example.input_ids[:-1] == printed[: len(example.input_ids) - 1]
    assert example.stops == [len(example.input_ids) - 1]


@pytest.mark.parametrize("policy", [Policy(train_on_stop=False), Policy(train_on=["user"])])
def test_no_stop_is_added_that_is_not_trained(policy: Policy) -> None:
    [example] = labeller(ENDLESS, ("</s>",)).examples(talk("q", "a"), policy)
    assert "</s>" not in example.text


def test_the_stop_after_a_call_is_that_of_calls() -> None:
    template = """
{%- for m in messages %}{{ '<|im_start|>' if m.role != 'tool' else '<s>' }}{{ m.role + '\n' + m.content }}
{%- for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
    made = labeller(template, ("</s>", "<|im_start|>", "<s>"))
    [call] = made.examples(CALLS)
    assert turns(call)[0].endswith("}<s>")
    assert turns(made.examples(talk("q", "a"))[0]) == ["a<|im_start|>"]


def test_an_empty_answer_gets_a_stop_only_where_its_place_is_certain() -> None:
    made = labeller(ENDLESS, ("</s>",))
    assert turns(made.examples(talk("q", ""))[0]) == ["</s>"]
    unprinted = ENDLESS.replace("{{ '<|im_start|>'", "{{ '' if not message.content else '<|im_start|>'")
    assert labeller(unprinted, ("</s>",)).examples(talk("q", "")) == []


def test_reasoning_and_calls_are_trained_where_the_template_prints_them() -> None:
    made = labeller(
        CHATML.replace(
            "message.content",
            "(message.reasoning_content or '') + message.content + (message.tool_calls or '') | string",
        ),
        [STOP],
    )
    assert [turns(example) for example in made.examples(THINKS)] == [["hma" + STOP, "b" + STOP]]
    [[call]] = [turns(example) for example in made.examples(CALLS)]
    assert "weather" in call
    assert call.endswith(STOP)


CHANNELS = """
{%- for m in messages %}{% if m.role == 'assistant' %}
{%- if m.reasoning_content %}{{ '<s>assistant think:' + m.reasoning_content + '</s>' }}{% endif %}
{{- '<s>assistant say:' + m.content + '</s>' }}
{%- else %}{{ '<s>' + m.role + ':' + m.content + '</s>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}<s>assistant{% endif %}"""


def test_a_turn_of_several_parts_goes_on_to_the_last() -> None:
    [example] = labeller(CHANNELS).examples(thought("q", "a"))
    assert marked(example) == "<s>user:q</s><s>assistant⟦ think:hm</s>⟧<s>assistant⟦ say:a</s>⟧"


def test_tool_results_within_a_turn_are_not_trained() -> None:
    source = """
{%- for m in messages if m.role != 'tool' %}{{ '[' + m.role + ']' }}
{%- for call in m.tool_calls or [] %}{{ '<' + call.function.name + '></s>' }}
{%- for result in messages if result.role == 'tool' %}{{ '=' + result.content + ';' }}{% endfor %}{% endfor %}
{{- m.content + '</s>' }}{% endfor %}
{%- if add_generation_prompt %}[assistant]{% endif %}"""
    call = {"function": {"name": "f", "arguments": {}}}
    messages = (Message("user", "q"), Message("assistant", "a", tool_calls=(call,)), Message("tool", "42"))
    [example] = labeller(source).examples(Conversation(messages))
    assert marked(example) == "[user]q</s>[assistant]⟦<f></s>⟧=42;⟦a</s>⟧"


@pytest.mark.parametrize(
    ("template", "variables", "warning"),
    [
        ("'<think>'", {}, LabelWarning.OTHER_PROMPT),
        ("'<think>' if enable_thinking is not false else ''", {}, LabelWarning.OTHER_SWITCH),
        ("'<think>' if enable_thinking is not false else ''", {"enable_thinking": False}, None),
        ("'<think>' if thinking else ''", {"thinking": True}, LabelWarning.OTHER_SWITCH),
        ("'<think>' if thinking else ''", {}, None),
        ("'<think>' if reasoning else ''", {"reasoning": True}, LabelWarning.OTHER_SWITCH),
        ("'' if enable_thinking else '<think></think>'", {}, LabelWarning.OTHER_SWITCH),
    ],
)
def test_a_prompt_that_a_switch_makes(template: str, variables: dict[str, Any], warning: LabelWarning | None) -> None:
    source = CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>assistant\n' }}{{ " + template + " }}")
    done = labeller(source, [STOP], **variables).label(talk("q", "a"))
    assert [turns(example) for example in done.examples] == [["a" + STOP]]
    assert said(done) == ({warning: 1} if warning else {})


def test_a_turn_does_not_begin_within_the_text_of_another() -> None:
    made = labeller(PLAIN.replace("in messages", "in messages | reverse"))
    messages = (Message("user", ""), Message("assistant", "a"), Message("user", "</s>[assistant]mine"))
    assert [marked(example) for example in made.examples(Conversation(messages))] == ["[assistant]⟦a</s>⟧[user]</s>"]


def test_tracked_text_that_is_treated_otherwise_than_plain_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = labeller(CHATML.replace("message.content", "message.content.swapcase()"), [STOP])
    assert made.examples(talk("q", "a"))
    monkeypatch.setattr(Tracked, "swapcase", lambda self: self)
    with pytest.raises(RowError, match="prints tracked text differently from plain text"):
        made.examples(talk("q", "a"))
