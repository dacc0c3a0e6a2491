"""Trained spans: right for awkward texts, and a clear refusal where a template makes them uncertain."""

from __future__ import annotations

import random

import pytest
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from sftcore import Conversation, Message, RowError
from sftcore.chat import render_conversation, renderer

STOP = "<|im_end|>"
CHATML = """
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def using(source):
    """Return the ``Render`` of a template's source."""
    return lambda messages, generation: render_jinja_template(
        [messages], chat_template=source, add_generation_prompt=generation
    )[0][0]


def talk(*texts, first="user"):
    roles = [first, "assistant" if first == "user" else "user"]
    return Conversation(tuple(Message(roles[index % 2], text) for index, text in enumerate(texts)))


def trained(conversation, render, stops=(STOP,)):
    text, spans = render_conversation(conversation, render, stops)
    return [text[start:end] for start, end in spans]


@pytest.fixture(scope="module")
def smollm2_tokenizer(smollm2):
    return AutoTokenizer.from_pretrained(smollm2)


def oracle(conversation, tokenizer):
    """Return the trained spans of a ChatML conversation, found by rendering unique words in place of the contents."""
    words = [f"@{index}@" for index in range(len(conversation.messages))]
    messages = [
        {"role": message.role, "content": word} for message, word in zip(conversation.messages, words, strict=True)
    ]
    skeleton = tokenizer.apply_chat_template(messages, tokenize=False)
    spans, shift = [], 0
    for message, word in zip(conversation.messages, words, strict=True):
        start = skeleton.index(word) + shift
        shift += len(message.content) - len(word)
        if message.role == "assistant":
            spans.append((start, start + len(message.content) + len(STOP)))
    return tuple(spans)


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
def test_awkward_contents(smollm2_tokenizer, texts, system):
    conversation = talk(*texts)
    if system is not None:
        conversation = Conversation((Message("system", system), *conversation.messages))
    text, spans = render_conversation(conversation, renderer(smollm2_tokenizer, conversation), [STOP])
    assert [text[start:end] for start, end in spans] == [answer + STOP for answer in texts[1::2]]
    assert spans == oracle(conversation, smollm2_tokenizer)


def test_random_conversations_agree_with_the_oracle(smollm2_tokenizer):
    pieces = ["a", " ", "\n", STOP, "<|im_start|>", "assistant\n", "user", "é", "你", "🙂", "{{", "@0", "", "system\n"]
    random_ = random.Random(7)
    for _ in range(300):
        roles = [
            "user",
            *random_.choices(["user", "assistant", "assistant", "system", "tool"], k=random_.randint(1, 6)),
        ]
        conversation = Conversation(
            tuple(Message(role, "".join(random_.choices(pieces, k=random_.randint(0, 5)))) for role in roles)
        )
        text, spans = render_conversation(conversation, renderer(smollm2_tokenizer, conversation), [STOP])
        assert spans == oracle(conversation, smollm2_tokenizer), conversation
        answers = [message.content + STOP for message in conversation.messages if message.role == "assistant"]
        assert [text[start:end] for start, end in spans] == answers


def test_consecutive_assistant_turns_are_trained_one_by_one():
    messages = (Message("user", "q"), Message("assistant", "a"), Message("assistant", "b"), Message("user", "r"))
    assert trained(Conversation(messages), using(CHATML)) == ["a" + STOP, "b" + STOP]


def test_no_assistant_turn_no_span():
    assert trained(talk("q"), using(CHATML)) == []


def test_the_assistant_speaks_first(smollm2_tokenizer):
    conversation = talk("hello", "q", "a", first="assistant")
    with pytest.raises(RowError, match="message 1: the assistant speaks first, so there is no prompt"):
        render_conversation(conversation, renderer(smollm2_tokenizer, conversation), [STOP])


TALK = talk("q", "a", "r", "b")
THINKS = Conversation((Message("user", "q"), Message("assistant", "a", "hm"), *TALK.messages[2:]))
CALLS = Conversation(
    (Message("user", "q"), Message("assistant", "", tool_calls=({"function": {"name": "weather", "arguments": {}}},)))
)
QWEN3 = CHATML.replace(
    "message.content",
    "('<think>' + message.reasoning_content if loop.last and message.reasoning_content else '') + message.content",
)


@pytest.mark.parametrize(
    ("template", "conversation", "reason"),
    [
        (QWEN3, THINKS, "message 2: the template writes it .* once the conversation goes on"),
        (QWEN3.replace("loop.last", "add_generation_prompt"), THINKS, "message 4: at serving time its prompt"),
        (CHATML.replace(STOP, ""), TALK, "message 2: the template prints no stop string .*looked for: '<|im_end|>'"),
        (CHATML.replace("message.content", "message.content | upper"), TALK, "message 2: the template changes"),
        (CHATML.replace("message.content", "message.content[:-1]"), TALK, "message 2: the template changes"),
        (CHATML.replace("assistant\n", "assistant\n<think>"), TALK, "message 2: at serving time"),
        (
            CHATML + "{{ raise_exception('roles must alternate') }}",
            TALK,
            "the chat template refuses it: roles must alter",
        ),
        ("{{ messages[0].absent.absent }}", TALK, "the chat template refuses it: .*absent"),
        ("{{ messages | length + 'x' }}", TALK, "the chat template refuses it"),
        ("{% for", TALK, "the chat template refuses it"),
        (CHATML.replace("add_generation_prompt", "false"), TALK, "no generation prompt, yet prints '.*assistant'"),
        (CHATML, CALLS, "message 2: the template does not print the call of 'weather'"),
    ],
)
def test_refused(template, conversation, reason):
    with pytest.raises(RowError, match=reason):
        trained(conversation, using(template))


def test_without_any_stop_the_reason_says_so():
    with pytest.raises(RowError, match="looked for: none is known"):
        trained(TALK, using(CHATML), stops=())


@pytest.mark.parametrize(
    ("template", "stops", "expected"),
    [
        # the turn's end is followed by the end of the conversation (Phi-3): the model stops at the first
        (CHATML + "{% if not add_generation_prompt %}</s>{% endif %}", (STOP, "</s>"), ["a" + STOP, "b" + STOP]),
        (CHATML + "{% if not add_generation_prompt %}</s>{% endif %}", ("</s>", STOP), ["a" + STOP, "b" + STOP]),
        # no stop of its own: the next turn's header ends it, and an end token the last (ChatGLM)
        (
            CHATML.replace("<|im_end|>\n", "") + "{% if messages[-1].role == 'assistant' %}</s>{% endif %}",
            ("</s>", "<|im_start|>"),
            ["a<|im_start|>", "b</s>"],
        ),
        # the last turn alone is ended (Baichuan)
        (
            CHATML.replace("<|im_end|>\n", "") + "{% if messages[-1].role == 'assistant' %}</s>{% endif %}",
            ("</s>",),
            ["a", "b</s>"],
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
    ],
)
def test_ways_to_end_a_turn(template, stops, expected):
    assert trained(TALK, using(template), stops) == expected


@pytest.mark.parametrize("content", ["</s>", "a</s>", "a" + STOP, STOP + "\n</s>", "", " "])
def test_a_stop_in_the_content_is_not_taken_for_the_end(content):
    template = CHATML + "{% if not add_generation_prompt %}</s>{% endif %}"
    assert trained(talk("q", content), using(template), (STOP, "</s>")) == [content + STOP]


def test_reasoning_and_calls_are_trained_where_the_template_prints_them():
    template = CHATML.replace(
        "message.content", "(message.reasoning_content or '') + message.content + (message.tool_calls or '') | string"
    )
    assert trained(THINKS, using(template)) == ["hma" + STOP, "b" + STOP]
    [call] = trained(CALLS, using(template))
    assert "weather" in call
    assert call.endswith(STOP)
