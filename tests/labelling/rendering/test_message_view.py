"""Messages as a template sees them: every string tagged, and every look at them noticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftcore.labelling.rendering.message_view import AccessLog, Messages, TemplateMessage, message_index, tag_messages
from sftcore.labelling.rendering.provenance import (
    CALL,
    CALL_ID,
    CALL_NAME,
    CONTENT,
    HEADER,
    REASONING,
    Tracked,
    runs_of,
    split_tag,
)
from sftcore.labelling.rendering.renderer import ChatTemplate

from ...sizes import examples

CALLED = {
    "id": "c1",
    "type": "function",
    "function": {"name": "f", "arguments": {"city": "Pisa", "days": [1, "two"], "type": "x"}},
}


def fields_of(value: Any) -> Any:
    """Return *value* with each string replaced by its tag, and a plain one by None."""
    if isinstance(value, str):
        return {split_tag(tag) for _, tag in runs_of(value)} if type(value) is Tracked else None
    if isinstance(value, dict):
        return {str(key): (fields_of(key), fields_of(item)) for key, item in value.items()}
    return [fields_of(item) for item in value] if isinstance(value, list) else value


def test_each_field_has_its_tag() -> None:
    message = {"role": "assistant", "content": "a", "reasoning_content": "r", "thinking": "t", "name": "n", "x": "y"}
    [_, made] = tag_messages([{"role": "user", "content": ""}, message])
    kinds = {key: fields_of(value) for key, value in made.items()}
    assert kinds == {
        "role": {(1, HEADER)},
        "content": {(1, CONTENT)},
        "reasoning_content": {(1, REASONING)},
        "thinking": {(1, REASONING)},
        "name": {(1, HEADER)},
        "x": {(1, CONTENT)},
    }
    assert made == message


def test_a_call_has_its_own_tags() -> None:
    message = {"role": "assistant", "content": "", "tool_calls": [CALLED]}
    [made] = tag_messages([message])
    [call] = made["tool_calls"]
    assert fields_of(call["id"]) == {(0, CALL_ID)}
    assert call["type"] == "function"
    assert type(call["type"]) is str
    assert fields_of(call["function"]["name"]) == {(0, CALL_NAME)}
    arguments = fields_of(call["function"]["arguments"])
    argument = {(0, CALL)}
    assert arguments == {"city": (argument, argument), "days": (argument, [1, argument]), "type": (argument, argument)}
    assert made == message


def test_a_call_may_be_any_value() -> None:
    [made] = tag_messages([{"role": "assistant", "tool_calls": ["f()", {"name": "f", "arguments": '{"x": 1}'}]}])
    text, call = made["tool_calls"]
    assert fields_of(text) == {(0, CALL)}
    assert fields_of(call["name"]) == {(0, CALL_NAME)}
    assert fields_of(call["arguments"]) == {(0, CALL)}


def test_parts_of_a_content_are_tagged() -> None:
    [made] = tag_messages([{"role": "user", "content": [{"type": "text", "text": "a"}, None, 1]}])
    [part, nothing, number] = made["content"]
    assert fields_of(part["text"]) == {(0, CONTENT)}
    assert type(part["type"]) is str
    assert (nothing, number) == (None, 1)


def test_what_is_a_message() -> None:
    [_, made] = tag_messages([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])
    assert message_index(made) == 1
    assert message_index({"role": made["role"], "content": "new"}) == 1
    assert message_index({"role": "assistant", "content": made["content"]}) == 1
    for other in ({"role": "assistant", "content": "a"}, {"content": made["content"]}, "a", made["content"], None, []):
        assert message_index(other) is None


def watched(count: int = 4) -> tuple[Messages, AccessLog]:
    watch = AccessLog()
    watch.printed = 7
    return Messages(tag_messages([{"role": "user", "content": str(index)} for index in range(count)]), watch), watch


LOOKS: dict[str, tuple[Callable[[Messages], Any], int]] = {
    "the first": (lambda m: m[0], 1),
    "the second": (lambda m: m[1], 2),
    "the last": (lambda m: m[-1], 5),
    "one before": (lambda m: m[-4], 5),
    "length": (len, 5),
    "any at all": (bool, 1),
    "the rest, unread": (lambda m: m[1:], 0),
    "of the rest, the first": (lambda m: m[1:][0], 2),
    "the rest's rest": (lambda m: m[1:][1:][1], 4),
    "is there a rest": (lambda m: bool(m[2:]), 3),
    "the length of the rest": (lambda m: len(m[2:]), 5),
    "the beginning": (lambda m: m[:1], 5),
    "backwards": (lambda m: m[::-1], 5),
    "each other": (lambda m: m[::2], 5),
    "from the end": (lambda m: m[-2:], 5),
    "reversed": (lambda m: next(iter(reversed(m))), 5),
    "in": (lambda m: 1 in m, 5),
    "equal": (lambda m: m == [], 5),
    "joined": (lambda m: m + [1], 5),  # noqa: RUF005 - the operator is meant
    "joined on the right": (lambda m: [1] + m, 5),  # noqa: RUF005
    "printed": (str, 5),
    "counted": (lambda m: m.count(1), 5),
    "nothing": (lambda m: None, 0),
}
"""What is done with four messages, and up to which it is then known that they are, or are not, there."""


@pytest.mark.parametrize(("look", "known"), LOOKS.values(), ids=LOOKS)
def test_who_looks_is_noticed(look: Callable[[Messages], Any], known: int) -> None:
    messages, watch = watched()
    look(messages)
    assert watch.known == [None] * known


@pytest.mark.parametrize("index", [4, -5, 99])
def test_one_that_is_not_there_tells_that_it_is_not(index: int) -> None:
    messages, watch = watched()
    with pytest.raises(IndexError):
        messages[index]
    assert len(watch.known) == 5


def test_a_loop_learns_of_one_message_at_a_time() -> None:
    messages, watch = watched(3)
    for watch.printed, message in enumerate(messages[1:], 10):
        assert len(watch.known) == message_index(message) + 1
    assert watch.known == [7, 7, 10, 11]
    assert watch.loops == 1
    list(messages)
    assert watch.loops == 2


def test_what_is_known_stays_known() -> None:
    messages, watch = watched(2)
    len(messages)
    watch.printed = 20
    assert list(messages)
    assert watch.known == [None] * 3


def test_it_reads_like_the_list() -> None:
    messages, _ = watched(3)
    plain = [{"role": "user", "content": str(index)} for index in range(3)]
    assert list(messages) == plain
    assert messages == plain
    assert messages == watched(3)[0]
    assert messages != plain[:2]
    assert (messages[0], messages[-1], messages[5:], messages[1:], messages[:2]) == (
        plain[0],
        plain[-1],
        [],
        plain[1:],
        plain[:2],
    )
    assert (messages + [1], [1] + messages, str(messages)) == ([*plain, 1], [1, *plain], str(plain))  # noqa: RUF005
    assert list(reversed(messages)) == plain[::-1]
    assert plain[1] in messages
    assert {} not in messages
    assert all(type(message) is TemplateMessage for message in messages)


TEMPLATES = {
    "a loop": "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ m['name'] }}{% endfor %}",
    "by index": "{% for i in range(messages | length) %}{{ messages[i].role }}: {{ messages[i].content }}{% endfor %}",
    "the rest": "{{ messages[0].content }}{% for m in messages[1:] %}{{ m.content | trim }}{% endfor %}",
    "backwards": "{% for m in messages[::-1] %}{{ m.content | upper }}{% endfor %}{{ messages | last }}",
    "look ahead": "{% for m in messages %}{{ m.content if loop.last else '' }}"
    "{{ '' if loop.last else loop.nextitem.role }}{% endfor %}",
    "a macro": "{% macro p(m) %}[{{ m.content }}]{% endmacro %}{% for m in messages %}{{ p(m) }}{% endfor %}",
    "namespaces": "{% set ns = namespace(n=0, t='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.t = ns.t + m.content + '|' %}{% endfor %}{{ ns.n }}{{ ns.t }}",
    "cut": "{% for m in messages %}{{ m.content.split('\n')[-1].lstrip(' ') }}{{ m.content[1:-1] }}{% endfor %}",
    "reasoning": "{% for m in messages %}{% if '</think>' in m.content %}{{ m.content.split('</think>')[0] }}"
    "{{ m.reasoning_content or '' }}{% else %}{{ m.content.replace('a', 'bb') }}{% endif %}{% endfor %}",
    "calls": "{% for m in messages %}{% for call in m.tool_calls or [] %}{{ call | tojson }}{{ call.function.name }}"
    "{% for k, v in call.function.arguments | items %}{{ k ~ '=' ~ v }}{% endfor %}{% endfor %}{% endfor %}",
    "lists": "{{ messages | map(attribute='content') | join(', ') }}{{ messages | selectattr('role', 'equalto', 'user')"
    " | list | length }}{{ (messages | groupby('role') | list)[0][0] }}",
    "whole": "{{ messages }}{{ messages | string }}{{ messages[0] }}{{ messages | tojson }}{{ messages == [] }}",
    "formats": "{% for m in messages %}{{ '%s/%s' | format(m.role, m.content) }}{{ '{:>9}'.format(m.content) }}"
    "{{ '%r' % m.content }}{{ m.content | indent(2) }}{{ m.content.center(9, '*') }}{% endfor %}",
    "filters": "{% for m in messages %}{{ m.content | title | e }}{{ m.content | wordwrap(3) | capitalize }}"
    "{{ m.content | list | join('.') }}{{ m.content | reverse | truncate(4, true) }}{{ m.content | safe }}{% endfor %}",
    "tests": "{% for m in messages %}{{ m.content is string }}{{ m is mapping }}{{ messages is iterable }}"
    "{{ messages is sequence }}{{ m.content == 'a' }}{{ m.content in 'abc' }}{{ m.absent is defined }}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "break": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}"
    "{% if 'x' in m.content %}{% break %}{% endif %}{% else %}none{% endfor %}",
    "copies": "{% set m = {'role': messages[0].role, 'content': messages[0].content ~ '!'} %}{{ m.content }}"
    "{% set all = [m] + messages[1:] %}{% for m in all %}{{ m.content }}{% endfor %}",
}

texts = st.text(alphabet="aX x\n<ß\u2028🙂</think>", max_size=6)
messages_ = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": texts},
        optional={"name": texts, "reasoning_content": texts, "tool_calls": st.just([CALLED])},
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_prints_the_same_whoever_watches(source: str) -> None:
    template = ChatTemplate(source)

    @examples(25)
    @given(messages_)
    def run(messages: list[dict[str, Any]]) -> None:
        rendering = template.trace(messages)
        assert rendering.text == template.render(messages)
        ends = [0]
        for start, end, _ in rendering.pieces:
            assert ends[-1] <= start <= end <= len(rendering.text)
            ends.append(end)

    run()
