"""Where the printed header of a turn is not its generation prompt: no header is trained, and no row guessed."""

from __future__ import annotations

from typing import Any

import pytest

from sftcore import Conversation, Message, RowError
from sftcore.labelling import Labeller, LabelWarning, Policy

from .test_labeller import said, talk, tokenizer, trained

TALK = talk("q", "a", "r", "b")
THINKS = "(m.reasoning_content + '</think>' if m.reasoning_content else '') + m.content"


def template(header: str, prompt: str, answer: str = "m.content", end: str = "'</s>'", assistant: str = "") -> str:
    """A template with a *header* before each message, another before the *assistant*'s, and a generation *prompt*."""
    return (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        f"{{{{ {assistant or header} }}}}{{{{ {answer} }}}}{{{{ {end} }}}}"
        f"{{% else %}}{{{{ {header} }}}}{{{{ m.content }}}}{{{{ {end} }}}}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {prompt} }}}}{{% endif %}}"
    )


def labels(source: str, conversation: Conversation = TALK, stops: tuple[str, ...] = ("</s>",)) -> list[str]:
    """The marked texts of the examples."""
    return trained(Labeller(tokenizer(source), stops).label(conversation))


NAME = "(' as ' + m.name if m.name else '')"
CHATML = "'<|im_start|>' + m.role + '\\n'"
NAMED = talk("q", "a", name="Ann")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            template(f"'<|im_start|>' + m.role + {NAME} + '\\n'", "'<|im_start|>assistant\\n'"),
            "<|im_start|>user\nq</s><|im_start|>assistant as Ann\n⟦a</s>⟧",
        ),
        (  # the role is the template's own word
            template(CHATML, "'<|im_start|>assistant\\n'", assistant=f"'<|im_start|>assistant' + {NAME} + '\\n'"),
            "<|im_start|>user\nq</s><|im_start|>assistant as Ann\n⟦a</s>⟧",
        ),
        (  # in place of the role
            template("(m.name or m.role) + ': '", "'assistant: '"),
            "user: q</s>Ann: ⟦a</s>⟧",
        ),
        (  # between brackets
            template("m.role + (' (' + m.name + ')' if m.name else '') + ':\\n'", "'assistant:\\n'"),
            "user:\nq</s>assistant (Ann):\n⟦a</s>⟧",
        ),
        (  # below the header
            template("m.role + ':\\n' + ('[' + m.name + ']\\n' if m.name else '')", "'assistant:\\n'"),
            "user:\nq</s>assistant:\n[Ann]\n⟦a</s>⟧",
        ),
        (  # what the prompt leaves to the model is trained
            template(f"m.role + {NAME} + '<say>'", "'assistant'"),
            "user<say>q</s>assistant as Ann⟦<say>a</s>⟧",
        ),
        (  # nothing is between the name and the answer
            template(f"m.role + {NAME}", "'assistant'"),
            "userq</s>assistant as Ann⟦a</s>⟧",
        ),
        (  # the answer has the name in it
            template(f"m.role + {NAME} + ': '", "'assistant: '", answer="m.content + ' by ' + m.name"),
            "user: q</s>assistant as Ann: ⟦a by Ann</s>⟧",
        ),
    ],
)
def test_a_name_in_the_header_is_not_trained(source: str, expected: str) -> None:
    assert labels(source, NAMED) == [expected]
    [long] = labels(source, talk("q", "a", "r", "b", name="Ann"))
    assert long.startswith(expected.rpartition("⟦")[0])
    assert long.count("⟦") == 2


def test_a_name_whose_header_ends_nowhere_is_an_error() -> None:
    source = template(
        "m.role + ' '", "'assistant '", assistant="'assistant' + ('<' + m.name + '<!' if m.name else ' ')"
    )
    with pytest.raises(RowError, match="message 2: its header has a name, and the template does not show where it"):
        labels(source, NAMED)


CHANNELS = """
{%- for m in messages %}{{ '<s>' + m.role }}
{%- if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</s><s>assistant' }}{% endif %}
{{- '[say]' + m.content + ('<|im_end|>' if loop.last else '</s>') }}{% endfor %}
{%- if add_generation_prompt %}{{ '<s>assistant' }}{% endif %}"""
"""The last message of any role ends with another token, so that no conversation begins with its prompt."""


def test_the_channel_that_the_model_writes_is_trained() -> None:
    thinks = talk("q", "a", reasoning_content="hm")
    assert labels(CHANNELS, thinks, ("<|im_end|>",)) == [
        "<s>user[say]q</s><s>assistant⟦<think>hm</s><s>assistant[say]a<|im_end|>⟧"
    ]
    assert labels(CHANNELS, talk("q", "a"), ("<|im_end|>",)) == ["<s>user[say]q</s><s>assistant⟦[say]a<|im_end|>⟧"]


ROLE = "'[' + m.role + ']'"
USER = "[user]q</s>"


@pytest.mark.parametrize(
    ("source", "header"),
    [
        # a typo in the prompt: before the end of the header, before a marker in it, in a marker
        (template(CHATML, "'<|im_start|>asistant\\n'"), "<|im_start|>assistant\n"),
        (template("'<s>' + m.role + '[say]'", "'<s>asistant[say]'"), "<s>assistant[say]"),
        (template("'<s>' + m.role + '[say]'", "'<s>assistant[sey]'"), "<s>assistant[say]"),
        # another marker, another word, another case
        (template(ROLE, "'[bot]'"), "[assistant]"),
        (template(ROLE, "'[bot]<think>'"), "[assistant]"),
        (template("'<s>' + m.role + '[say]'", "'<s>bot[say]'"), "<s>assistant[say]"),
        (template("m.role | capitalize + ': '", "'assistant: '"), "Assistant: "),
        (template("'# ' + m.role | upper + ':\\n'", "'# Assistant:\\n'"), "# ASSISTANT:\n"),
        # a marker twice, in the header or in the prompt
        (template(ROLE, "'[assistant]'", assistant="'[assistant][assistant]'"), "[assistant][assistant]"),
        (template(ROLE, "'[assistant][assistant]'"), "[assistant]"),
        # an instruction before the header, in place of it, or in it; one that only the prompt has
        (template(ROLE, "'[assistant]'", assistant="'Answer!\\n[assistant]'"), "Answer!\n[assistant]"),
        (template("'# ' + m.role + ':\\n'", "'# assistant:\\n'", assistant="'# Reply:\\n'"), "# Reply:\n"),
        (template(CHATML, "'<|im_start|>assistant\\n'", assistant="'<|im_start|>assistant <b>in</b> short\\n'"),
         "<|im_start|>assistant <b>in</b> short\n"),
        (template(ROLE, "'[assistant]Be brief. '"), "[assistant]"),
        # the day, in the header or in the prompt
        (template("m.role + ':\\n'", "'assistant:\\n'", assistant="'assistant (Monday):\\n'"), "assistant (Monday):\n"),
        (template("m.role + ':\\n'", "'assistant (Monday):\\n'"), "assistant:\n"),
        # white space before the header, or other white space in it
        (template("'   ' + m.role + ':'", "'assistant:'"), "   assistant:"),
        (template("'\\n\\n' + m.role + ':\\n\\n'", "'\\nassistant:\\n'"), "\n\nassistant:\n\n"),
        # the prompt opens reasoning that the turn does not have
        (template(CHATML, "'<|im_start|>assistant\\n<think>\\n'"), "<|im_start|>assistant\n"),
    ],
)  # fmt: skip
def test_a_header_other_than_the_prompt_is_not_trained(source: str, header: str) -> None:
    done = Labeller(tokenizer(source), ["</s>"]).label(TALK)
    [text] = trained(done)
    assert text.endswith(f"{header}⟦b</s>⟧")
    assert text.count(f"{header}⟦a</s>⟧") == 1
    assert text.count("⟦") == 2
    assert LabelWarning.HEADER_TRAINED not in said(done)


def test_a_marker_of_the_model_is_trained_where_the_prompt_opens_reasoning() -> None:
    source = template(ROLE, "'[assistant]<think>'", assistant="'[assistant]<say>'")
    assert labels(source) == ["[user]q</s>[assistant]⟦<say>a</s>⟧[user]r</s>[assistant]⟦<say>b</s>⟧"]


@pytest.mark.parametrize("context", ["served", "strict", "whole"])
def test_a_header_that_nobody_knows_is_an_error(context: Any) -> None:
    source = template(ROLE, "'[bot]'", assistant="'[assistant ' + (m.content | length) | string + ']'")
    made = Labeller(tokenizer(source), ["</s>"])
    with pytest.raises(RowError, match=r"message 4: before the answer the template prints .*neither its gen"):
        made.label(talk("q", "a" * 50, "r", "b" * 50), Policy(context=context))


@pytest.mark.parametrize("prompt", ["'\\n'", "' '", "'  \\n'"])
def test_a_header_after_a_blank_prompt_is_told(prompt: str) -> None:
    source = template(f"{prompt} + m.role + ': '", prompt)
    done = Labeller(tokenizer(source), ["</s>"]).label(talk("q", "a"))
    assert said(done) == {LabelWarning.HEADER_TRAINED: 1}
    assert trained(done)[0].endswith("⟦assistant: a</s>⟧")


def test_what_is_printed_between_messages_belongs_to_no_answer() -> None:
    separated = (
        "{% for m in messages %}{{ '[' + m.role + ']' + m.content }}{{ '\n---\n' if not loop.last }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\n---\n[assistant]' }}{% endif %}"
    )
    assert labels(separated) == ["[user]q\n---\n[assistant]⟦a⟧\n---\n[user]r\n---\n[assistant]⟦b</s>⟧"]
    before = separated.replace("{{ '\n---\n' if not loop.last }}", "").replace(
        "{{ '['", "{{ ('' if loop.first else '\n---\n') + '['"
    )
    assert labels(before) == labels(separated)
    closed = separated.replace("m.content }}", "'(' + m.content + ')' }}")
    assert labels(closed, talk("q", "a", "r", "b"))[0].count("⟦(a)⟧\n---\n") == 1


def test_a_message_of_another_with_a_name_has_no_part_in_it() -> None:
    source = template(f"m.role + {NAME} + ': '", "'assistant: '")
    conversation = Conversation((Message("user", "q", name="Ann"), Message("assistant", "a")))
    assert labels(source, conversation) == ["user as Ann: q</s>assistant: ⟦a</s>⟧"]
