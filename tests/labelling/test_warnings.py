"""Every warning is made where it is due, counted, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from sftcore import Conversation, Message
from sftcore.labelling import LabelWarning, Policy, truncate

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
    """A conversation under a template, and how often the warning is made; the same where it is not due."""

    source: str
    conversation: Conversation
    times: int
    other: tuple[str, Conversation]
    policy: Policy = Policy()
    other_policy: Policy | None = None


CASES = {
    LabelWarning.OWN_EXAMPLE: Case(FORGETS, thought("q", "a", "r", "b", "s", "c"), 2, (FORGETS, TALK)),
    LabelWarning.EMPTY: Case(PLAIN, talk("q", "", "r", "b"), 1, (PLAIN, TALK)),
    LabelWarning.OTHER_SWITCH: Case(SWITCH, TALK, 2, (PLAIN, TALK)),
    LabelWarning.OTHER_PROMPT: Case(OPENS, TALK, 2, (OPENS, thought("q", "a", "r", "b"))),
    LabelWarning.REWRITTEN_HISTORY: Case(
        PLAIN.replace("m.content", "(m.content if loop.last else m.content | upper)"),
        *(TALK, 2, (PLAIN, TALK)),
        Policy(context="whole"),
    ),
    LabelWarning.NOT_AS_SERVED: Case(OPENS, TALK, 2, (OPENS, TALK), Policy(context="strict"), Policy()),
    LabelWarning.NO_PROMPT: Case(PLAIN, FIRST, 1, (PLAIN, TALK)),
    LabelWarning.NO_STOP: Case(ENDLESS, TALK, 2, (PLAIN, TALK), Policy(train_on_stop=False)),
    LabelWarning.STOP_ADDED: Case(ENDLESS, talk("q", "a"), 1, (PLAIN, TALK)),
    LabelWarning.NO_SYSTEM: Case(only("user", "assistant"), SYSTEM, 1, (PLAIN, SYSTEM)),
    LabelWarning.NO_USER: Case(only("assistant", "system"), SYSTEM, 2, (PLAIN, SYSTEM)),
    LabelWarning.NO_RESULT: Case(only("user", "assistant"), RESULT, 1, (PLAIN, RESULT)),
    LabelWarning.NO_REASONING: Case(PLAIN, thought("q", "a", "r", "b"), 2, (OPENS, thought("q", "a"))),
    LabelWarning.NO_CONTENT: Case(EITHER, CALLED, 1, (CALLS, CALLED)),
    LabelWarning.HEADER_TRAINED: Case(ONCE, TWICE, 1, (ONCE, TALK)),
    LabelWarning.NO_TOOLS: Case(
        *(PLAIN, replace(TALK, tools=(TOOL,)), 1),
        ("{{ tools | tojson if tools }}" + PLAIN, replace(TALK, tools=(TOOL,))),
    ),
    LabelWarning.CROSSED_BOUNDARY: Case(MERGES, talk("q", "!a", "r", "b"), 1, (MERGES, TALK)),
    LabelWarning.OTHER_MARKS: Case(STOP_OUTSIDE, TALK, 2, (GENERATION, TALK)),
    LabelWarning.PARTLY_PRINTED: Case(THINK_DROPPED, talk("q", "<think>hm</think>a"), 1, (THINK_DROPPED, TALK)),
    LabelWarning.TRUNCATED: Case(
        *(PLAIN, TALK, 1, (PLAIN, TALK)),
        *(Policy(max_length=11, truncation="truncate_right"), Policy(max_length=12, truncation="truncate_right")),
    ),
    LabelWarning.AFTER_MAX_LENGTH: Case(
        *(PLAIN, TALK, 1, (PLAIN, TALK)),
        *(Policy(max_length=6, truncation="truncate_right"), Policy(max_length=11, truncation="truncate_right")),
    ),
    LabelWarning.TURNS_DROPPED: Case(PLAIN, TALK, 1, (PLAIN, TALK), Policy(max_length=11), Policy(max_length=12)),
    LabelWarning.SPLIT_TO_FIT: Case(
        *(PLAIN, TALK, 1, (PLAIN, TALK)),
        *(Policy(max_length=11, truncation="split"), Policy(max_length=12, truncation="split")),
    ),
    LabelWarning.TOO_LONG: Case(PLAIN, TALK, 1, (PLAIN, TALK), Policy(max_length=5), Policy(max_length=12)),
}


def warnings(source: str, conversation: Conversation, policy: Policy) -> dict[LabelWarning, int]:
    made = labeller(source)
    return said(truncate(made, conversation, made.label(conversation, policy), policy))


def test_every_warning_is_here() -> None:
    assert set(CASES) == set(LabelWarning)
    assert len({warning.text(2) for warning in LabelWarning}) == len(LabelWarning)


def test_one_is_told_as_one() -> None:
    assert LabelWarning.NO_REASONING.message(1) == "1 turn has reasoning that this chat template does not print"
    assert (
        LabelWarning.NO_REASONING.message(1234) == "1,234 turns have reasoning that this chat template does not print"
    )
    assert LabelWarning.NO_PROMPT.message(1).endswith("because it comes first and so has no prompt")
    assert LabelWarning.NO_PROMPT.message(2).endswith("because they come first and so have no prompt")
    for warning in LabelWarning:
        one, many = warning.text(1).split()[:2], warning.text(2).split()[:2]
        assert many in ([f"{one[0]}s", *many[1:]], [one[0], f"{one[1]}s"]), warning
        assert not set("[|]") & set(warning.text(1) + warning.text(2))


@pytest.mark.parametrize("warning", LabelWarning)
def test_it_is_made_where_it_is_due(warning: LabelWarning) -> None:
    case = CASES[warning]
    assert warnings(case.source, case.conversation, case.policy) == {warning: case.times}


@pytest.mark.parametrize("warning", LabelWarning)
def test_it_is_not_made_where_it_is_not(warning: LabelWarning) -> None:
    case = CASES[warning]
    assert warning not in warnings(*case.other, case.other_policy or case.policy)


def test_the_end_of_a_turn_may_be_merged_too() -> None:
    source = ENDLESS.replace("'['", "'!['").replace("'[assistant]'", "'![assistant]'")
    assert warnings(source, talk("q", "a?", "r?", "b?"), Policy()) == {
        LabelWarning.CROSSED_BOUNDARY: 1,
        LabelWarning.NO_STOP: 1,
        LabelWarning.STOP_ADDED: 1,
    }


@pytest.mark.parametrize("conversation", [TALK, SYSTEM, RESULT, talk("q"), talk("", "a"), talk("q", "a", "r")])
def test_there_is_nothing_to_warn_of(conversation: Conversation) -> None:
    assert warnings(PLAIN, conversation, Policy()) == {}
    assert warnings(GENERATION, conversation, Policy()) == {}


@pytest.mark.parametrize("content", ["", " \n"])
def test_what_is_empty_is_not_missed(content: str) -> None:
    conversation = Conversation((Message("system", content), Message("user", content), *TALK.messages[1:]))
    assert LabelWarning.NO_SYSTEM not in warnings(only("user", "assistant"), conversation, Policy())
    assert warnings(only("assistant"), conversation, Policy()) == {LabelWarning.NO_USER: 1}


@pytest.mark.parametrize("stop", [True, False])
def test_the_stop_need_not_be_trained_to_be_seen(stop: bool) -> None:
    assert warnings(PLAIN, TALK, Policy(train_on_stop=stop)) == {}
    ended = {LabelWarning.NO_STOP: 1, LabelWarning.STOP_ADDED: 1}
    assert warnings(ENDLESS, TALK, Policy(train_on_stop=stop)) == (ended if stop else {LabelWarning.NO_STOP: 2})


def test_only_trained_turns_have_warnings() -> None:
    only_first: Any = (*TALK.messages[:3], replace(TALK.messages[3], train=False))
    assert warnings(OPENS, Conversation(only_first), Policy()) == {LabelWarning.OTHER_PROMPT: 1}
    assert warnings(OPENS, TALK, Policy(train_on="last_turn")) == {LabelWarning.OTHER_PROMPT: 1}
