"""A template's use of message contents is recorded: words it looks for, and every inspection."""

from __future__ import annotations

from contextlib import suppress

import pytest

from sftcore import RowError
from sftcore.labelling.fast_path.observed_template import Observations, ObservedTemplate
from sftcore.labelling.fast_path.planner import PLACEHOLDER

PROMPT = "{% if add_generation_prompt %}[assistant]{% endif %}"


def loop(inside: str, before: str = "") -> str:
    return before + "{% for m in messages %}[{{ m.role }}]" + inside + "{% endfor %}" + PROMPT


SHOW = "{% macro show(c) %}{% if c is string %}{{ c }}{% else %}{% for p in c %}{{ p.text }}{% endfor %}{% endif %}"
NS = "{% set ns = namespace(t='', n=0, m=none) %}"

INDEPENDENT = {
    "printed": loop("{{ m.content }}"),
    "printed by item": loop("{{ m['content'] + '</s>' }}"),
    "asked for": loop("{{ m.get('content') }}{{ m.get('name', '') }}"),
    "trimmed": loop("{{ m.content | trim }}{{ m.content.strip() ~ m.content.rstrip('\\n') }}"),
    "joined, then trimmed": loop("{{ (m.content + '\n') | trim }}"),
    "a name": loop("{% set c = m.content | trim %}{{ '<' ~ c ~ '>' }}"),
    "by role": loop("{% if m.role == 'user' or loop.first %}{{ m.content }}{% else %}{{ ' ' + m.content }}{% endif %}"),
    "another's": loop("{{ m.content }}{{ messages[0].content }}{{ messages[-1]['content'] }}"),
    "the one before": loop("{{ loop.previtem.content if loop.previtem is defined else '' }}{{ m.content }}"),
    "a list of parts": loop("{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}"),
    "a macro": SHOW + "{% endmacro %}" + loop("{{ show(m.content) }}{{ show(c=m.content) | trim }}"),
    "a system prompt": "{% if messages[0].role == 'system' %}{% set s = messages[0].content %}"
    "{% set rest = messages[1:] %}"
    "{% else %}{% set s = false %}{% set rest = messages %}{% endif %}{% if s != false %}{{ s }}{% endif %}"
    "{% for m in rest %}{{ m.content }}{% endfor %}",
    "a namespace": loop("{{ ns.t }}{% set ns.t = m.content %}{% set ns.n = ns.n + 1 %}", NS),
    "a set block": loop("{% set x %}({{ m.content }}){% endset %}{{ x }}"),
    "whether there is one": loop("{% if m.content %}{{ m.content }}{% endif %}{{ m.content or 'nothing' }}"),
    "whether it is none": loop("{% if m.content is not none and m.content != '' %}{{ m.content }}{% endif %}"),
    "tools": loop(
        "{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}{{ m.content }}", "{{ tools | tojson if tools }}"
    ),
    "the role of a tool": loop("{% if m.role == 'tool' %}{{ m.content | tojson }}{% else %}{{ m.content }}{% endif %}"),
    "how many": loop("{{ m.content }}{{ messages | length }}{{ '!' if loop.last }}"),
    "some of them": "{% for m in messages | selectattr('role', 'ne', 'system') | list %}{{ m.content }}{% endfor %}",
    "all by an attribute": "{{ messages | map(attribute='content') | join }}",
    "those with one": "{% for m in messages | selectattr('content') %}{{ m.content }}{% endfor %}",
    "an error": loop("{{ raise_exception('no: ' + m.content) if m.role == 'tool' }}{{ m.content }}"),
}

WORDS = {
    "in": (loop("{{ m.content.upper() if '<x>' in m.content else m.content }}"), {"<x>"}),
    "not in": (loop("{% if '<x>' not in m.content %}{{ m.content }}{% else %}{{ m.content[1:] }}{% endif %}"), {"<x>"}),
    "in what is trimmed": (loop("{% set c = m.content | trim %}{{ c[2:] if '<x>' in c else c }}"), {"<x>"}),
    "split": (
        loop("{{ m.content.split('</x>')[-1].lstrip('\\n') }}{{ m.content.split('<x>') | first }}"),
        {"<x>", "</x>"},
    ),
    "begins": (loop("{{ m.content[1:] if m.content.startswith('!') else m.content }}"), {"!"}),
    "in what may be another": (loop("{% set c = m.content if loop.first else 'x' %}{{ '!' if 'a' in c }}"), {"a"}),
    "is": (loop("{{ 'X' if m.content == 'stop' else m.content }}"), {"stop"}),
    "by a macro": ("{% macro f(c) %}{{ c[1:] if '#' in c else c }}{% endmacro %}" + loop("{{ f(m.content) }}"), {"#"}),
}

INSPECTS = {
    "the length": loop("{{ m.content | length }}"),
    "the length of a name": loop("{% set c = m.content %}{% if c | length > 3 %}!{% endif %}"),
    "a part": loop("{{ m.content[:3] }}"),
    "letters": loop("{% for c in m.content %}{{ c }}{% endfor %}"),
    "a list of parts, maybe": loop(
        "{% for p in c %}{{ p }}{% endfor %}{% set c = m.content %}", "{% set c = messages[0].content %}"
    ),
    "another spelling": loop("{{ m.content | upper }}"),
    "JSON": loop("{{ m.content | tojson }}"),
    "JSON of a message": loop("{{ m | tojson }}"),
    "a message as text": loop("{{ m }}"),
    "all messages": "{{ messages }}",
    "two that are equal": loop("{{ '!' if m.content == messages[0].content }}"),
    "two messages that are equal": loop("{{ '!' if m == messages[-1] }}"),
    "a message among others": loop("{{ '!' if m in messages[1:] }}"),
    "in a text": loop("{{ '!' if m.content in 'abc' }}"),
    "in a list": loop("{{ '!' if m.content in ['a'] }}"),
    "in what is joined": loop("{{ '!' if 'ab' in 'a' + m.content }}"),
    "order": loop("{{ '!' if m.content < 'b' }}"),
    "a key by name": loop("{% set k = 'content' %}{{ m[k] | length }}"),
    "all keys": loop("{% for k, v in m.items() %}{{ v | length }}{% endfor %}"),
    "sorted": "{% for m in messages | sort(attribute='content') %}{{ m.content }}{% endfor %}",
    "a format": loop("{{ '%.3s' % m.content }}"),
    "another format": loop("{{ '{:.3}'.format(m.content) }}"),
    "a change": loop("{{ '!' if loop.changed(m.content) }}"),
    "a macro that looks": "{% macro f(c) %}{{ c | length }}{% endmacro %}" + loop("{{ f(m.content) }}"),
    "a macro that looks at a message": "{% macro f(x) %}{{ x.content[0] }}{% endmacro %}" + loop("{{ f(m) }}"),
    "a default that looks": "{% macro f(a, c=messages[0].content | length) %}{{ c }}{% endmacro %}"
    + loop("{{ f(1) }}"),
    "two macros of a name": "{% if tools %}{% macro f(c) %}{{ c }}{% endmacro %}{% else %}"
    "{% macro f(c) %}{{ c | length }}{% endmacro %}{% endif %}" + loop("{{ f(m.content) }}"),
    "through a namespace": loop("{{ ns.t | length }}{% set ns.t = m.content %}", NS),
    "a message through a namespace": loop("{{ ns.m.content | length }}{% set ns.m = m %}", NS),
    "a namespace by another name": loop("{% set o = ns %}{{ o.t | length }}{% set ns.t = m.content %}", NS),
    "a namespace of two": loop(
        "{{ ns.t | length }}{% set ns.t = m.content %}", "{% set ns = namespace(t='') if tools else namespace(t='x') %}"
    ),
    "a namespace as an argument": "{% macro f(s) %}{{ s.t | length }}{% endmacro %}"
    + loop("{{ f(ns) }}{% set ns.t = m.content %}", NS),
    "a filter block": loop("{% filter upper %}{{ m.content }}{% endfilter %}"),
    "a set block with a filter": loop("{% set x | upper %}{{ m.content }}{% endset %}{{ x }}"),
    "a call block": "{% macro f() %}{{ caller() | length }}{% endmacro %}"
    + loop("{% call f() %}{{ m.content }}{% endcall %}"),
    "a set block that looks": loop("{% set x %}{{ m.content }}{% endset %}{{ x | length }}"),
    "a list that holds it": loop("{% set l = [m.content] %}{{ l[0] | length }}"),
    "a mapping that holds it": loop("{% set d = {'c': m.content} %}{{ d.c | length }}"),
    "a word and its place": loop("{{ m.content.find('x') }}"),
    "how often": loop("{{ m.content.count('x') }}"),
    "replaced": loop("{{ m.content | replace('a', 'b') }}"),
    "in a text by a test": loop("{{ '!' if m.content is in 'abc' }}"),
    "in an attribute by a test": "{% for m in messages | selectattr('content', 'in', 'abc') %}!{% endfor %}",
    "its prefix": loop("{{ '!' if 'abc'.startswith(m.content) }}"),
    "trimmed from another": loop("{{ 'abc'.strip(m.content) ~ 'abc' | trim(m.content) }}"),
    "replaced in another": loop("{{ 'abc' | replace(m.content, '') }}"),
    "a format of nothing": loop("{{ '%.0s' % (m.content,) }}"),
    "a format filter of nothing": loop("{{ '%.0s' | format(m.content) }}"),
    "its own format": loop("{{ m.content.format(1) }}"),
    "a letter": loop("{{ m.content | first }}"),
    "the last letter": loop("{{ m.content | last }}"),
    "turned around": loop("{{ m.content | reverse }}"),
    "letters joined": loop("{{ m.content | join('.') }}"),
    "a case": loop("{{ '!' if m.content is lower }}"),
    "a number": loop("{{ m.content | int }}"),
    "a method by item": loop("{{ m.content['upper']() }}"),
    "a method by attribute filter": loop("{{ m.content | attr('upper') }}"),
    "a method by map": "{{ messages | map(attribute='content.upper') | list }}",
    "all lengths": "{{ messages | map(attribute='content') | map('length') | list }}",
    "all sorted": "{{ messages | map(attribute='content') | sort | join }}",
    "JSON of an iterator": "{{ messages | map(attribute='content') | list | tojson }}",
    "a key of a mapping": loop("{{ {m.content: 1}.values() | list }}"),
    "a key of another": loop("{{ {'a': 1}[m.content] }}{{ {'a': 1}.get(m.content) }}"),
    "unpacked": loop("{% set a, b = m.content %}{{ a }}"),
    "unpacked arguments": "{% macro f() %}{{ varargs | length }}{% endmacro %}" + loop("{{ f(*m.content) }}"),
    "repeated": loop("{{ m.content * 0 }}"),
    "itself": loop("{{ '!' if m.content is sameas(messages[0].content) }}"),
    "a cycle": loop("{{ loop.cycle(m.content, 1) | length }}"),
    "marked as generated": loop(
        "{% set x %}{% generation %}{{ m.content }}{% endgeneration %}{% endset %}{{ x | length }}"
    ),
    "an order of lists": loop("{{ '!' if [m.content] < ['b'] }}"),
    "a list in a list": loop("{{ '!' if [m.content] in [['a']] }}"),
    "trimmed of other characters": loop("{{ m.content.strip('.') }}"),
}


def observed(source: str, traced: bool, roles: str = "system user assistant user assistant") -> Observations:
    template = ObservedTemplate(source)
    observations = template.observe()
    messages = [{"role": role, "content": PLACEHOLDER.format(at)} for at, role in enumerate(roles.split())]
    with suppress(RowError):
        (template.trace if traced else template.render)(messages, None)
    return observations


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("name", INDEPENDENT)
def test_content_independent(name: str, traced: bool) -> None:
    found = observed(INDEPENDENT[name], traced)
    assert not found.inspected
    assert found.words == set()


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("name", WORDS)
def test_content_independent_without_words(name: str, traced: bool) -> None:
    source, words = WORDS[name]
    found = observed(source, traced)
    assert not found.inspected
    assert found.words == words


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("name", INSPECTS)
def test_content_is_inspected(name: str, traced: bool) -> None:
    assert observed(INSPECTS[name], traced).inspected


def test_messages_of_different_roles_differ_whatever_their_contents_are() -> None:
    source = INSPECTS["two messages that are equal"]
    assert not observed(source, True, "system user assistant").inspected
    assert not observed(source, False, "system user assistant").inspected
