"""What the source of a template proves: that every generation prompt is the same, and follows what came before."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftcore.labelling.rendering.renderer import ChatTemplate

from ...sizes import examples

BODY = "{{ '[' + m.role + ']' + m.content }}"
LOOP = "{% for m in messages %}" + BODY + "{% endfor %}"
PROMPT = "{% if add_generation_prompt %}[assistant]{% endif %}"
DEFAULT = "{% if add_generation_prompt is not defined %}{% set add_generation_prompt = false %}{% endif %}"


def loop(inside: str = "", over: str = "messages") -> str:
    return "{% for m in " + over + " %}" + inside + BODY + "{% endfor %}"


CONSTANT = {
    "plain": LOOP + PROMPT,
    "none at all": LOOP,
    "white space": LOOP + "\n\n{%- if add_generation_prompt -%}\n{{- '[assistant]' }}\n{%- endif %}\n",
    "an else branch": LOOP + "{% if add_generation_prompt %}A{% else %}{{ eos_token }}{% endif %}",
    "a switch": LOOP
    + "{% if add_generation_prompt %}A{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}",
    "filters": LOOP + "{{ 'a' | upper ~ bos_token | trim if add_generation_prompt else '' }}",
    "a default": DEFAULT + LOOP + PROMPT,
    "a part of the messages": loop(over="messages[1:]") + PROMPT,
    "a condition on messages": loop(over="messages if m.role != 'system'") + PROMPT,
    "a name for the rest": "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% else %}"
    "{% set rest = messages %}{% endif %}" + loop(over="rest") + PROMPT,
    "the index": loop("{{ loop.index0 }}{% if loop.first %}{{ bos_token }}{% endif %}") + PROMPT,
    "the one before": loop("{{ '' if loop.first else loop.previtem.role }}") + PROMPT,
    "an inner loop's last": loop("{% for c in 'ab' %}{{ c }}{{ '' if loop.last else ',' }}{% endfor %}") + PROMPT,
    "a macro before": "{% macro show(t) %}<{{ t }}>{% endmacro %}" + loop("{{ show(m.role) }}") + PROMPT,
    "a namespace in the loop": "{% set ns = namespace(n=0) %}" + loop("{% set ns.n = ns.n + 1 %}{{ ns.n }}") + PROMPT,
    "tools before": "{% if tools %}{{ tools | tojson }}{% endif %}" + LOOP + PROMPT,
    "a loop over tools": "{% for t in tools or [] %}{{ t }}{% endfor %}" + LOOP + PROMPT,
    "a branch around": "{% if tools %}T{% endif %}{% if true %}" + LOOP + "{% endif %}" + PROMPT,
    "a system prompt by hand": "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    + loop(over="messages[1:]")
    + PROMPT,
}

NOT_CONSTANT = {
    "the last message": loop("{% if loop.last %}!{% endif %}") + PROMPT,
    "the length": loop("{{ loop.length }}") + PROMPT,
    "the next": loop("{{ loop.nextitem is defined }}") + PROMPT,
    "the loop by another name": loop("{% set l = loop %}{{ l.last }}") + PROMPT,
    "a changed role": loop("{{ loop.changed(m.role) }}") + PROMPT,
    "an attribute by name": loop("{{ loop['last'] }}") + PROMPT,
    "prompt in the loop": loop("{% if add_generation_prompt %}{% endif %}") + PROMPT,
    "prompt before the loop": "{{ 'x' if add_generation_prompt }}" + LOOP + PROMPT,
    "prompt by another name": "{% set ask = add_generation_prompt %}" + LOOP + "{% if ask %}[assistant]{% endif %}",
    "a default of something": DEFAULT.replace("false", "messages | length > 1") + LOOP + PROMPT,
    "a default with an else": DEFAULT.replace("{% endif", "{% else %}x{% endif") + LOOP + PROMPT,
    "a pre-scan": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = loop.index %}{% endfor %}"
    + LOOP
    + PROMPT,
    "two loops": LOOP + LOOP + PROMPT,
    "no loop": "{{ messages[0].content }}" + PROMPT,
    "an else of the loop": "{% for m in messages %}" + BODY + "{% else %}none{% endfor %}" + PROMPT,
    "the last one's role": LOOP
    + "{% if add_generation_prompt and messages[-1].role == 'user' %}[assistant]{% endif %}",
    "the last one's role, after": LOOP + "{{ messages[-1].role }}" + PROMPT,
    "tools after": LOOP + "{% if tools %}T{% endif %}" + PROMPT,
    "what the loop has set": "{% set ns = namespace(r='') %}" + loop("{% set ns.r = m.role %}") + "{{ ns.r }}" + PROMPT,
    "what the loop has set, in a test": "{% set ns = namespace(r='') %}"
    + loop("{% set ns.r = m.role %}")
    + "{% if add_generation_prompt and ns.r == 'user' %}[assistant]{% endif %}",
    "set after the loop": LOOP + "{% set last = messages[-1] %}" + PROMPT,
    "set after, and read": LOOP + "{% set x = 'A' %}{% if add_generation_prompt %}{{ x }}{% endif %}",
    "a macro after": "{% macro ask() %}A{% endmacro %}" + LOOP + "{% if add_generation_prompt %}{{ ask() }}{% endif %}",
    "the loop in a macro": "{% macro all() %}" + LOOP + "{% endmacro %}{{ all() }}" + PROMPT,
    "the loop in a filter": "{% filter upper %}" + LOOP + "{% endfilter %}" + PROMPT,
    "the date in a sentence": LOOP + "{% if add_generation_prompt %}{{ 'On ' ~ strftime_now('%d') }}{% endif %}",
    "a loop in each branch": "{% if tools %}" + LOOP + "{% else %}" + LOOP + "{% endif %}" + PROMPT,
    "a loop in a macro, too": "{% macro all() %}" + LOOP + "{% endmacro %}" + LOOP + PROMPT,
    "no prompt with tools": "{% if tools %}{% set add_generation_prompt = false %}{% endif %}"
    + loop("{{ '' if add_generation_prompt else '' }}")
    + PROMPT,
    "a loop after": LOOP + "{% for t in 'ab' %}{{ t }}{% endfor %}" + PROMPT,
}


@pytest.mark.parametrize("source", CONSTANT.values(), ids=CONSTANT)
def test_the_prompt_is_always_the_same(source: str) -> None:
    assert ChatTemplate(source).constant_prompt


@pytest.mark.parametrize("source", NOT_CONSTANT.values(), ids=NOT_CONSTANT)
def test_the_prompt_may_differ(source: str) -> None:
    assert not ChatTemplate(source).constant_prompt


def test_the_date_may_differ() -> None:
    source = LOOP + "{% if add_generation_prompt %}{{ strftime_now('%d') }}{% endif %}"
    assert not ChatTemplate(source).constant_prompt


KNOWN_LATER = {
    "by index": "{% for m in messages %}{{ messages[loop.index0].role }}" + BODY + "{% endfor %}" + PROMPT,
    "the next by index": loop("{{ messages[loop.index] is defined }}") + PROMPT,
    "counted before": "{{ messages | length }}" + LOOP + PROMPT,
    "counted within": loop("{{ messages | length }}") + PROMPT,
    "the last before": "{% set last = messages[-1].role %}{{ last }}" + LOOP + PROMPT,
    "not the last": loop(over="messages[:-1]") + PROMPT,
    "stopped": "{% for m in messages %}"
    + BODY
    + "{% if m.content == 'a' %}{% break %}{% endif %}{% endfor %}"
    + PROMPT,
    "compared": loop("{{ messages == [m] }}") + PROMPT,
    "searched": loop("{{ m in messages }}") + PROMPT,
    "printed": "{{ messages | string | length }}" + LOOP + PROMPT,
    "with a macro of the loop": loop("{% macro x() %}{{ m.role }}{% endmacro %}{{ x() }}") + PROMPT,
    "under another name": "{% with all = messages %}"
    + loop("{{ loop.last }}", "all")
    + "{% endwith %}"
    + LOOP
    + PROMPT,
}
"""Where the source alone does not tell that later messages are read: it is noticed when they are."""

messages_ = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(alphabet="ab[]", max_size=3)}
    ),
    min_size=1,
    max_size=5,
)


def check(source: str) -> None:
    """Check that what is claimed of the prompts of *source* is so."""
    template = ChatTemplate(source)
    assert template.constant_prompt
    variables: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
    constants: set[str] = set()

    @examples(30)
    @given(messages_)
    def run(messages: list[dict[str, Any]]) -> None:
        rendering = template.trace(messages, **variables)
        assert len(rendering.known) <= len(messages) + 1
        for index, known in enumerate(rendering.known):
            if index and known is not None:
                prompt = template.render(messages[:index], None, True, **variables)
                assert prompt[:known] == rendering.text[:known]
                constants.add(prompt[known:])
                assert len(constants) == 1

    run()


@pytest.mark.parametrize("source", [*CONSTANT.values(), *KNOWN_LATER.values()], ids=[*CONSTANT, *KNOWN_LATER])
def test_what_is_proven_of_the_prompts_is_so(source: str) -> None:
    check(source)


WRONG = {
    "copied": loop(over="messages + []") + PROMPT,
    "some": loop(over="messages | rejectattr('role', 'equalto', 'system')") + PROMPT,
    "a list of them": loop(over="messages | list") + PROMPT,
    "reversed": loop(over="messages | reverse") + PROMPT,
    "sorted": loop(over="messages | sort(attribute='role')") + PROMPT,
    "collected first": loop(over="messages | rejectattr('role', 'equalto', 'tool') | list") + PROMPT,
    "in batches": "{% for ms in messages | batch(2) %}{% for m in ms %}" + BODY + "{% endfor %}{% endfor %}" + PROMPT,
    "recursive": "{% for m in messages recursive %}" + BODY + "{% endfor %}" + PROMPT,
    "a macro in the loop": loop("{% macro x() %}{{ loop.last }}{% endmacro %}{{ x() }}") + PROMPT,
    "an inner else": loop("{% for x in [] %}{% else %}{{ loop.last }}{% endfor %}") + PROMPT,
    "an inner condition": loop("{% for x in [1] if loop.last %}{{ x }}{% endfor %}") + PROMPT,
    "collected in a branch": loop(over="(messages if tools else messages | rejectattr('content', 'none') | list)")
    + PROMPT,
    "collected at last": "{% set rest = messages[1:] %}{% set rest = messages | rejectattr('content', 'none') | list %}"
    + loop(over="rest")
    + PROMPT,
    "by chance": LOOP + "{% if add_generation_prompt %}{{ 'ABCDEFGH' | random }}{% endif %}",
}


@pytest.mark.parametrize("source", WRONG.values(), ids=WRONG)
def test_what_is_not_proven_is_not_claimed(source: str) -> None:
    if ChatTemplate(source).constant_prompt:
        check(source)


def test_what_is_printed_before_a_message_is_known() -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert ChatTemplate(LOOP).trace(messages).known == [0, 7, 19]
    assert ChatTemplate("ab" + LOOP).trace(messages).known == [2, 9, 21]
    assert ChatTemplate(LOOP + LOOP).trace(messages).known == [None] * 3
    assert ChatTemplate("{{ messages[0].role }}" + LOOP).trace(messages).known == [None, 11, 23]
    assert ChatTemplate("").trace(messages).known == []
