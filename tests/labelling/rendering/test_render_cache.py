"""What is remembered of one rendering holds for another only where all that was read is the same."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from sftcore.core.errors import RowError
from sftcore.labelling.rendering.renderer import Beginnings, ChatTemplate, Piece

from ..templates import TEMPLATES

Messages = Sequence[Mapping[str, Any]]

HEAD = "{% set ns = namespace(n=0, last=-1, text='', seen=none, list=[], on=false) %}"
TAIL = "{% if add_generation_prompt %}[assistant]{% endif %}"
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
LAST = "{% for m in messages[::-1] %}{% if m.role == 'user' and ns.last < 0 %}" + (
    "{% set ns.last = messages | length - loop.index %}{% endif %}{% endfor %}"
)


def body(text: str, over: str = "messages", before: str = "", macro: str = "") -> str:
    """Return a template that prints each message, and *text* before it."""
    return (
        macro
        + HEAD
        + before
        + "{% for m in "
        + over
        + " %}"
        + text
        + "<{{ m.role }}>{{ m.content }}{% endfor %}"
        + TAIL
    )


SAME = {
    "nothing but the message": body(""),
    "a counter": body("{% set ns.n = ns.n + 1 %}{{ ns.n }}"),
    "what was said before": body("{{ ns.text }}{% set ns.text = m.content %}"),
    "a list that grows": body("{{ ns.list }}{% set ns.list = ns.list + [m.role] %}"),
    "a message that is kept": body("{{ ns.seen.content }}{% set ns.seen = m %}"),
    "the one before": body("{{ loop.previtem.content if loop.previtem }}"),
    "the first": body("{{ 'F' if loop.first }}{{ loop.index }}{{ loop.index0 }}"),
    "the last": body("{{ '!' if loop.last }}"),
    "the last by its index": body("{{ '!' if loop.index0 == messages | length - 1 }}"),
    "near the end": body("{{ '!' if loop.index0 + 3 > messages | length }}"),
    "the last user by a number": body("{{ '!' if loop.index0 > ns.last }}", before=LAST),
    "the last user by another name": body(
        "{{ '!' if loop.index0 >= last }}", before=LAST + "{% set last = ns.last - 1 %}"
    ),
    "two numbers": body("{{ '!' if ns.last < ns.n }}", before=LAST + "{% set ns.n = messages | length - 2 %}"),
    "a number and none": body("{{ '!' if ns.last == none }}{{ '?' if ns.last != 2 }}", before=LAST),
    "a number and a text": body("{{ '!' if ns.last == m.content }}", before=LAST),
    "a chain of comparisons": body("{{ '!' if 0 <= ns.last < 3 }}", before=LAST),
    "a number that is printed too": body("{{ '!' if loop.index0 > ns.last }}{{ ns.last }}", before=LAST),
    "a number that is counted down": body("{% set ns.last = ns.last - 1 %}{{ '!' if ns.last > 0 }}", before=LAST),
    "a number by a macro": body(
        "{{ far(loop.index0) }}",
        before=LAST,
        macro="{% macro far(i) %}{{ '!' if i > messages | length - 3 }}{% endmacro %}",
    ),
    "the next": body("{{ loop.nextitem.role if loop.nextitem }}"),
    "the next by its number": body("{{ messages[loop.index0 + 1].role if messages[loop.index0 + 1] is defined }}"),
    "the last of all": body("{{ messages[-1].role }}"),
    "those that follow": body("{% for o in messages[loop.index0:] %}{{ o.role }}{% endfor %}"),
    "any that follow": body("{{ '!' if messages[loop.index0 + 2:] }}"),
    "the length": body("{{ loop.length }}{{ loop.revindex }}"),
    "the length of another list": body("{{ '!' if rest | length > 3 }}", before="{% set rest = messages[2:] %}"),
    "all of them": body("{{ messages | map(attribute='role') | join }}"),
    "how many users": body(
        "{{ users | length }}", before="{% set users = messages | selectattr('role', 'eq', 'user') | list %}"
    ),
    "a list from outside": body(
        "{{ '!' if m in users }}", before="{% set users = messages | selectattr('role', 'eq', 'user') | list %}"
    ),
    "the prompt": body("{{ 'P' if add_generation_prompt }}"),
    "a switch": body("{{ 'T' if enable_thinking is false }}"),
    "a switch of a number": body("{{ 'T' if level > 2 }}"),
    "tools": body("{{ tools | tojson if tools }}"),
    "a macro that counts": body(
        "{{ count() }}",
        macro="{% set ns = namespace(n=0) %}{% macro count() %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{% endmacro %}",
    ).replace(HEAD, ""),
    "a macro that reads": body("{{ show() }}", before="{% macro show() %}{{ ns.n }}{% endmacro %}{% set ns.n = 4 %}"),
    "a macro for many": body(
        "{{ show(m) if show }}",
        before="{% if messages | length > 4 %}{% macro show(m) %}{{ m.role }}{% endmacro %}{% endif %}",
    ),
    "a macro of two": body(
        "{{ show(m) }}",
        before="{% if messages | length > 4 %}{% macro show(m) %}{{ m.role }}{% endmacro %}"
        "{% else %}{% macro show(m) %}{{ m.content }}{% endmacro %}{% endif %}",
    ),
    "a macro by another name": body(
        "{{ f(m) }}", macro="{% macro show(m) %}{{ m.role }}{% endmacro %}", before="{% set f = show %}"
    ),
    "a continue": body(
        "{% if m.content == 'b' %}({{ m.role }}){% set ns.n = ns.n + 1 %}{% continue %}{% endif %}{{ ns.n }}"
    ),
    "a continue in a loop within": body(
        "{% for c in 'ab' %}{% if c == 'a' %}{% continue %}{% endif %}{{ c }}{% endfor %}"
    ),
    "a break": body("{% if loop.index0 > 4 %}{% break %}{% endif %}"),
    "a condition": body("{{ loop.index }}", over="messages if m.role != 'system'"),
    "a part": body("{{ loop.index }}", over="messages[1:]"),
    "backwards": body("{{ loop.index }}", over="messages | reverse"),
    "a list of another order": body("", over="messages | sort(attribute='role')"),
    "two loops": body("{% set ns.n = ns.n + 1 %}{{ ns.n }}")
    + "{% for m in messages %}{{ ns.n }}{{ m.role }}{% endfor %}",
    "a loop in a macro": "{% macro all() %}{% for m in messages %}{{ m.content }}{% endfor %}{% endmacro %}{{ all() }}",
    "a loop that is set": "{% set t %}{% for m in messages %}{{ m.content }}{% endfor %}{% endset %}{{ t | upper }}"
    + TAIL,
    "true is not one": body("{{ ns.on }}{% set ns.on = 1 if ns.on is sameas false else true %}"),
    "a cycler": body("{{ turn.next() }}", before="{% set turn = cycler('a', 'b', 'c') %}"),
    "a joiner": body("{{ comma() }}", before="{% set comma = joiner(',') %}"),
    "a change": body("{{ '~' if loop.changed(m.role) }}"),
    "a cycle": body("{{ loop.cycle('a', 'b', 'c') }}"),
    "the loop as a whole": body("{% set l = loop %}{{ l.last }}"),
    "a namespace in a namespace": body("{% set ns.seen = namespace(n=loop.index) %}", before="") + "{{ ns.seen.n }}",
    "a namespace as a value": body(
        "{{ show(ns) }}{% set ns.n = ns.n + 1 %}", macro="{% macro show(s) %}{{ s.n }}{% endmacro %}"
    ),
    "set where a name was": body("{{ x }}{% set x = m.role %}{{ x }}", before="{% set x = messages | length %}"),
    "an error for some": body("{% if loop.last and m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"),
    "marks": body("{% generation %}{{ m.content }}{% endgeneration %}"),
    "a template's own text with a number": body("{{ '%d' % ns.last }}{{ '!' if ns.last > 1 }}", before=LAST),
    "undefined": body("{{ nothing }}{{ nothing.x is defined }}"),
    "an item of a mapping": body(
        "{{ '!' if loop.index0 == cfg.last }}{{ '?' if cfg.last > 3 }}",
        before="{% set cfg = {'last': messages | length - 1} %}",
    ),
    "a namespace by another name": body("{{ '!' if s.last > 1 }}{{ ns.last }}", before=LAST + "{% set s = ns %}"),
    "subtracted from a number": body("{{ '!' if 5 - ns.last > 2 }}{{ '?' if 6 - messages | length > 2 }}", before=LAST),
    "a namespace by an item": body("{{ '!' if ns.last > 1 }}{{ ns['last'] }}", before=LAST),
    "a namespace by a filter": body("{{ '!' if ns.last > 1 }}{{ ns | attr('last') }}", before=LAST),
    "a namespace in a list": body("{{ '!' if ns.last > 1 }}{{ [ns] | map(attribute='last') | join }}", before=LAST),
    "a namespace by a name of the loop": body("{{ '!' if ns.last > 1 }}{% set t = ns %}{{ t.last }}", before=LAST),
    "a namespace given to a macro": body(
        "{{ '!' if ns.last > 1 }}{{ show(ns) }}", before=LAST, macro="{% macro show(s) %}{{ s.last }}{% endmacro %}"
    ),
    "a list that is compared, and counted": body(
        "{% if loop.index0 == 99 and users == [] %}none{% endif %}{{ users | length }}",
        before="{% set users = messages | selectattr('role', 'eq', 'user') | list %}",
    ),
    "messages that are kept": body("{% set ns.seen = messages[loop.index0:] %}") + "{{ ns.seen | length }}",
    "a list of messages that is kept": body("{% set ns.seen = [messages] %}") + "{{ ns.seen[0] | length }}",
    "a macro that is kept": body("{% set ns.seen = c %}", macro="{% macro c() %}{{ messages | length }}{% endmacro %}")
    + "{{ ns.seen() }}",
    "a macro that reads the name of the loop": "{% set m = messages | length %}{% macro f() %}{{ m }}{% endmacro %}"
    + body("{{ f() }}"),
    "a condition on what the loop sets": body(
        "{% set ns.n = ns.n + 1 %}{{ loop.last }}{{ ns.n }}", over="messages if ns.n < 3"
    ),
    "one namespace of two names": body(
        "{% set a.n = a.n + 1 %}{{ b.n }}",
        before="{% set a = namespace(n=0) %}{% if messages | length > 3 %}{% set b = a %}"
        "{% else %}{% set b = namespace(n=0) %}{% endif %}",
    ),
    "a zero with a sign": body("{{ x }}", before="{% set x = -0.0 if messages | length > 3 else 0.0 %}"),
    "the same list": body(
        "{{ l is sameas k }}", before="{% set l = [1] %}{% set k = l if messages | length > 3 else [1] %}"
    ),
    "a text by the name of a namespace": body("{{ sp }}", before="{% set sp %}x{% endset %}"),
    "another namespace": body(
        "{{ '!' if sp.n == 1 }}", before="{% set namespace = dict %}{% set sp = namespace(n=1) %}"
    ),
    "messages set anew": body("{{ loop.index }}", before="{% set messages = messages[::-1] %}"),
    "messages of two names": body(
        "{{ loop.index0 }}{{ loop.previtem.content if loop.previtem }}{{ '!' if loop.last }}",
        over="rest",
        before="{% if messages and messages[0].role == 'system' %}{% set rest = messages[1:] %}"
        "{% else %}{% set rest = messages %}{% endif %}",
    ),
    "messages up to some": body("{{ loop.index }}", over="messages[:3]"),
    "messages one and one": body("", over="messages[::2]"),
    "a loop that is left": "{% for m in messages %}{{ m.role }}{% break %}{% endfor %}" + body("{{ loop.index }}"),
    "a loop in a loop": body("{% for o in messages %}{{ o.content if loop.index0 < 2 }}{% endfor %}{{ loop.index }}"),
    "many loops": body("{% set ns.n = ns.n + 1 %}{{ '!' if loop.last }}")
    + body("{{ ns.n }}{{ loop.index }}").replace(HEAD, ""),
    "a count over all": body("{% set ns.n = ns.n + 1 %}{{ '!' if ns.n > 3 }}") + "{{ ns.n }}",
    "an else": "{% for m in messages %}{{ m.content }}{% else %}none{% endfor %}",
    "messages in a list": body("{{ [messages] }}{{ messages | pprint }}"),
    "a copy": "{% for m in messages.copy() %}{{ m.role }}{% endfor %}{{ (messages * 2) | length }}",
}

REMEMBERED = [
    "nothing but the message",
    "a counter",
    "the one before",
    "the last",
    "the last by its index",
    "near the end",
    "the last user by a number",
    "the next by its number",
    "a continue",
    "a condition",
    "the prompt",
    "a switch",
    "tools",
    "a macro that counts",
]
"""Templates of which most is remembered: a conversation of many turns depends on it."""


def talk(chance: random.Random, length: int) -> list[dict[str, Any]]:
    roles = ["system", *(["user", "assistant"] * length)] if chance.random() < 0.5 else ["user", "assistant"] * length
    return [{"role": role, "content": chance.choice("abc")} for role in roles[:length]]


def attempt(render: Any, *given: Any, **named: Any) -> Any:
    try:
        return render(*given, **named)
    except RowError as error:
        return str(error)


def joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Return *pieces*, those of one tag that touch each other as one."""
    made: list[Piece] = []
    for piece in pieces:
        if made and piece.start < piece.end and (made[-1].end, made[-1].tag) == (piece.start, piece.tag):
            made[-1] = made[-1]._replace(end=piece.end)
        else:
            made.append(piece)
    return made


def compare(template: ChatTemplate, messages: Messages, chance: random.Random) -> int:
    """Render all beginnings of *messages* in any order, with and without memory; return what was remembered."""
    variables: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "level": 1}
    settings = [variables, {**variables, "enable_thinking": False, "level": 3}]
    plain, traced = (template.beginnings(messages, TOOLS, variables, traced=traced) for traced in (False, True))
    asked = [(count, add, one) for count in range(len(messages) + 1) for add in (True, False) for one in settings]
    chance.shuffle(asked)
    for count, add, given in asked:
        wanted = attempt(template.render, messages[:count], TOOLS, add, **given)
        assert attempt(plain.text, count, add, given) == wanted, (count, add)
        known = attempt(template.trace, messages[:count], TOOLS, add, **given)
        found = attempt(traced.trace, count, add, given)
        if isinstance(known, str):
            assert found == known
        else:
            assert found.text == wanted
            assert joined(found.pieces) == joined(known.pieces)
            if template.constant_prompt:
                assert found.known == known.known
    return plain.memory.hits


@pytest.mark.parametrize("name", SAME)
def test_it_prints_the_same(name: str) -> None:
    chance = random.Random(name)
    for _ in range(3):
        compare(ChatTemplate(SAME[name]), talk(chance, 9), chance)


@pytest.mark.parametrize("name", TEMPLATES)
def test_it_prints_the_same_under_templates_with_trouble(name: str) -> None:
    chance = random.Random(name)
    compare(ChatTemplate(TEMPLATES[name].source), talk(chance, 9), chance)


@pytest.mark.parametrize("name", REMEMBERED)
def test_prompts_cost_what_is_new_in_them(name: str) -> None:
    messages = [{"role": role, "content": role} for role in ["user", "assistant"] * 20]
    beginnings = ChatTemplate(SAME[name]).beginnings(messages, TOOLS, {}, traced=False)
    for count in range(1, len(messages), 2):
        beginnings.text(count, True, {})
    printed = sum(range(1, len(messages), 2))
    assert beginnings.memory.hits > 0.8 * printed


def test_a_bug_of_the_memory_would_refuse_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are compared with one that nothing was remembered for."""
    from sftcore.labelling.turns import Served

    messages = [{"role": role, "content": role} for role in ["user", "assistant"] * 3]
    served = Served(ChatTemplate(SAME["the last"]), messages, None, {}, {})
    for count in (1, 3, 5):
        served.prompt(count)
    served.verify_prompts()
    plain = Beginnings.text
    monkeypatch.setattr(Beginnings, "text", lambda self, *given: plain(self, *given) + "!")
    served = Served(ChatTemplate(SAME["the last"]), messages, None, {}, {})
    for count in (1, 3, 5):
        served.prompt(count)
    with pytest.raises(RowError, match="nothing is certain"):
        served.verify_prompts()
