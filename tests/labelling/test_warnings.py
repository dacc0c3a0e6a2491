"""Every remark is made where it is due, counted, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from sftcore import Conversation, Message
from sftcore.labelling import Policy, Remark, fit

from .test_labeller import FORGETS, OPENS, PLAIN, labeller, said, talk, thought

SYSTEM, TALK = talk("q", "a", "r", "b", system="S"), talk("q", "a", "r", "b")
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
RESULT = Conversation((*TALK.messages[:2], Message("tool", "42"), Message("assistant", "b")))
FIRST = Conversation((Message("assistant", "hello"), *TALK.messages))
ENDLESS = PLAIN.replace(" + '</s>'", "")


def only(*roles: str) -> str:
    """Return a template that prints nothing of other roles."""
    return PLAIN.replace("{% for m in messages %}", f"{{% for m in messages if m.role in {list(roles)} %}}")


GENERATION = (
    "{% for m in messages %}{{ '[' + m.role + ']' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}</s>{% endgeneration %}{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
STOP_OUTSIDE = GENERATION.replace("</s>{% endgeneration %}", "{% endgeneration %}</s>")
SWITCH = PLAIN.replace(
    "{{ '[assistant]' }}", "{{ '[assistant]' + ('<think>' if enable_thinking is not false else '') }}"
)


MERGES = PLAIN.replace("']'", "']?'").replace("'[assistant]'", "'[assistant]?'")
"""A header that ends with a question mark, which is a token together with the exclamation mark."""


CALLS = PLAIN.replace("m.content", "m.content + (m.tool_calls | tojson if m.tool_calls else '')")
EITHER = PLAIN.replace("m.content", "(m.tool_calls | tojson if m.tool_calls else m.content)")
CALLED = Conversation(
    (
        Message("user", "q"),
        Message("assistant", "wait", tool_calls=({"function": {"name": "f", "arguments": {"x": 1}}},)),
    )
)
THINK_DROPPED = PLAIN.replace("m.content", "m.content.split('</think>')[-1]")
ONCE = PLAIN.replace("if add_generation_prompt", "if add_generation_prompt and messages[-1].role != 'assistant'")
TWICE = Conversation((*TALK.messages[:2], Message("assistant", "b")))


class Case(NamedTuple):
    """A conversation under a template, and how often the remark is made; the same where it is not due."""

    source: str
    conversation: Conversation
    times: int
    other: tuple[str, Conversation]
    policy: Policy = Policy()
    other_policy: Policy | None = None


CASES = {
    Remark.SPLIT: Case(FORGETS, thought("q", "a", "r", "b", "s", "c"), 2, (FORGETS, TALK)),
    Remark.SWITCHED: Case(SWITCH, TALK, 2, (PLAIN, TALK)),
    Remark.CLOSEST: Case(OPENS, TALK, 2, (OPENS, thought("q", "a", "r", "b"))),
    Remark.REWRITTEN: Case(
        PLAIN.replace("m.content", "(m.content if loop.last else m.content | upper)"),
        *(TALK, 2, (PLAIN, TALK)),
        Policy(context="whole"),
    ),
    Remark.NOT_AS_SERVED: Case(OPENS, TALK, 2, (OPENS, TALK), Policy(context="strict"), Policy()),
    Remark.FIRST: Case(PLAIN, FIRST, 1, (PLAIN, TALK)),
    Remark.NO_STOP: Case(ENDLESS, TALK, 2, (PLAIN, TALK)),
    Remark.NO_SYSTEM: Case(only("user", "assistant"), SYSTEM, 1, (PLAIN, SYSTEM)),
    Remark.NO_USER: Case(only("assistant", "system"), SYSTEM, 2, (PLAIN, SYSTEM)),
    Remark.NO_RESULT: Case(only("user", "assistant"), RESULT, 1, (PLAIN, RESULT)),
    Remark.NO_REASONING: Case(PLAIN, thought("q", "a", "r", "b"), 2, (OPENS, thought("q", "a"))),
    Remark.NO_CONTENT: Case(EITHER, CALLED, 1, (CALLS, CALLED)),
    Remark.HEADED: Case(ONCE, TWICE, 1, (ONCE, TALK)),
    Remark.NO_TOOLS: Case(
        *(PLAIN, replace(TALK, tools=(TOOL,)), 1),
        ("{{ tools | tojson if tools }}" + PLAIN, replace(TALK, tools=(TOOL,))),
    ),
    Remark.MERGED: Case(MERGES, talk("q", "!a", "r", "b"), 1, (MERGES, TALK)),
    Remark.MARKS: Case(STOP_OUTSIDE, TALK, 2, (GENERATION, TALK)),
    Remark.PARTLY: Case(THINK_DROPPED, talk("q", "<think>hm</think>a"), 1, (THINK_DROPPED, TALK)),
    Remark.CUT: Case(
        *(PLAIN, TALK, 1, (PLAIN, TALK)),
        *(Policy(max_length=11, truncation="truncate_right"), Policy(max_length=12, truncation="truncate_right")),
    ),
    Remark.BEYOND: Case(
        *(PLAIN, TALK, 1, (PLAIN, TALK)),
        *(Policy(max_length=6, truncation="truncate_right"), Policy(max_length=11, truncation="truncate_right")),
    ),
    Remark.SHORTENED: Case(PLAIN, TALK, 1, (PLAIN, TALK), Policy(max_length=11), Policy(max_length=12)),
    Remark.PARTED: Case(
        *(PLAIN, TALK, 1, (PLAIN, TALK)),
        *(Policy(max_length=11, truncation="split"), Policy(max_length=12, truncation="split")),
    ),
    Remark.TOO_LONG: Case(PLAIN, TALK, 1, (PLAIN, TALK), Policy(max_length=5), Policy(max_length=12)),
}


def remarks(source: str, conversation: Conversation, policy: Policy) -> dict[Remark, int]:
    made = labeller(source)
    return said(fit(made, conversation, made.label(conversation, policy), policy))


def test_every_remark_is_here() -> None:
    assert set(CASES) == set(Remark)
    assert len({remark.value for remark in Remark}) == len(Remark)


def test_one_is_told_as_one() -> None:
    assert Remark.NO_REASONING.said(1) == "1 turn has reasoning that this chat template does not print"
    assert Remark.NO_REASONING.said(1234) == "1,234 turns have reasoning that this chat template does not print"
    for remark in Remark:
        one, many = remark.one.split()[:2], remark.value.split()[:2]
        assert many in ([f"{one[0]}s", *many[1:]], [one[0], f"{one[1]}s"]), remark


@pytest.mark.parametrize("remark", Remark)
def test_it_is_made_where_it_is_due(remark: Remark) -> None:
    case = CASES[remark]
    assert remarks(case.source, case.conversation, case.policy) == {remark: case.times}


@pytest.mark.parametrize("remark", Remark)
def test_it_is_not_made_where_it_is_not(remark: Remark) -> None:
    case = CASES[remark]
    assert remark not in remarks(*case.other, case.other_policy or case.policy)


def test_the_end_of_a_turn_may_be_merged_too() -> None:
    source = ENDLESS.replace("'['", "'!['").replace("'[assistant]'", "'![assistant]'")
    assert remarks(source, talk("q", "a?", "r?", "b?"), Policy()) == {Remark.MERGED: 1, Remark.NO_STOP: 2}


@pytest.mark.parametrize("conversation", [TALK, SYSTEM, RESULT, talk("q"), talk("", ""), talk("q", "a", "r")])
def test_there_is_nothing_to_remark(conversation: Conversation) -> None:
    assert remarks(PLAIN, conversation, Policy()) == {}
    assert remarks(GENERATION, conversation, Policy()) == {}


@pytest.mark.parametrize("content", ["", " \n"])
def test_what_is_empty_is_not_missed(content: str) -> None:
    conversation = Conversation((Message("system", content), Message("user", content), *TALK.messages[1:]))
    assert Remark.NO_SYSTEM not in remarks(only("user", "assistant"), conversation, Policy())
    assert remarks(only("assistant"), conversation, Policy()) == {Remark.NO_USER: 1}


@pytest.mark.parametrize("stop", [True, False])
def test_the_stop_need_not_be_trained_to_be_seen(stop: bool) -> None:
    assert remarks(PLAIN, TALK, Policy(train_on_stop=stop)) == {}
    assert remarks(ENDLESS, TALK, Policy(train_on_stop=stop)) == {Remark.NO_STOP: 2}


def test_only_trained_turns_are_remarked_on() -> None:
    only_first: Any = (*TALK.messages[:3], replace(TALK.messages[3], train=False))
    assert remarks(OPENS, Conversation(only_first), Policy()) == {Remark.CLOSEST: 1}
    assert remarks(OPENS, TALK, Policy(train_on="last_turn")) == {Remark.CLOSEST: 1}
