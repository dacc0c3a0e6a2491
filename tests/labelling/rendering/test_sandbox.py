"""The sandbox renders what transformers renders, and marks what it prints; ``test_hostile.py`` has what it refuses."""

from __future__ import annotations

import copy
import itertools
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import jinja2
import jinja2.filters
import jinja2.sandbox
import jinja2.utils
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils.chat_template_utils import render_jinja_template

from sftcore import RowError
from sftcore.core.errors import SftError
from sftcore.labelling.rendering import limits, renderer
from sftcore.labelling.rendering.provenance import CONTENT, END_GENERATION, ENTER, EXIT, GENERATION, MIXED, split_tag
from sftcore.labelling.rendering.renderer import ChatTemplate

from ...sizes import examples

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": " Be brief.\n"},
    {"role": "user", "content": "2 < 3 & 'x' \"y\"\n  - eins\n\tzwei 你好 🙂 ß %s {0}"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"b": [1, 2.5, None], "a": "é"}}}],
    },
    {"role": "tool", "content": '{"x": true}', "name": "f"},
    {"role": "assistant", "content": "<think>hm</think>\n\nYes. "},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]

OF_A_TEXT = [
    *("upper", "lower", "title", "capitalize", "trim", "length", "string", "safe", "e", "escape", "forceescape"),
    *("first", "last", "reverse", "list", "wordcount", "urlencode", "striptags", "tojson", "pprint", "indent"),
    *("wordwrap", "truncate", "center", "float", "int", "int(7)", "urlize", "min", "max", "d", "default('x')"),
    *("replace('e', '**')", "replace('e', '', 1)", "replace('', '.')", "indent(3, first=true)", "indent('> ')"),
    *(
        "wordwrap(7, wrapstring='|')",
        "truncate(9)",
        "truncate(5, true, '~', 0)",
        "center(50)",
        "length | filesizeformat",
    ),
    *(
        "tojson(ensure_ascii=true)",
        "tojson(indent=2)",
        "batch(3) | list",
        "slice(2) | list",
        "join('-')",
        "sort | join",
    ),
    *("unique | join", "select('in', 'abc') | join", "reject('in', 'abc') | join | upper", "map('upper') | join"),
]
OF_MESSAGES = [
    "length",
    "first",
    "last",
    "map(attribute='role')|join(', ')",
    "map(attribute='content')|map('upper')|list",
    "selectattr('role','eq','user')|list",
    "rejectattr('role','in',['user','system'])|map(attribute='role')|list",
    "groupby('role')|map('first')|list",
    "sort(attribute='role')|map(attribute='role')|join",
    "reverse|map(attribute='role')|join",
    "list|length",
    "tojson",
    "tojson(indent=4)",
    "tojson(sort_keys=true,separators=(',',':'))",
    "join('|',attribute='role')",
    "batch(2)|list|length",
    "slice(2)|list|length",
    "selectattr('name')|list|length",
    "selectattr('name','undefined')|list|length",
    "unique(attribute='role')|list|length",
    "string|length",
    "map(attribute='content')|map('trim')|select|list",
    "map('length')|sum",
    "random|default('')|length > 0",
]

BODIES = {
    **{f"text | {filter_}": f"{{{{ m.content | {filter_} }}}}" for filter_ in OF_A_TEXT},
    "slices": "{{ m.content[2:5] }}{{ m.content[::-1] }}{{ m.content[-3:] }}{{ m.content[:0] }}{{ m.content[1::2] }}",
    "methods": "{{ m.content.strip().split(' ') | join('_') }}{{ m.content.splitlines()[-1:] }}{{ m.content.title() }}"
    "{{ m.content.partition('<')[2] }}{{ m.content.rpartition('x')[0] }}{{ m.content.removeprefix(' ') }}"
    "{{ m.content.replace('e', 'E', 1).ljust(60, '.') }}{{ m.content.find('e') }}{{ m.content.startswith('<') }}"
    "{{ ','.join(m.content) }}{{ m.content.zfill(9) }}{{ m.content.expandtabs(4) }}"
    "{{ m.content.rsplit(None, 1) }}{{ m.content.rstrip('. ') }}{{ m.content.casefold() }}{{ m.content.count('e') }}",
    "operators": "{{ m.role + ': ' + m.content }}{{ m.content * 2 }}{{ 2 * m.role }}{{ m.role ~ 1 ~ none ~ m.content }}"
    "{{ '%s is %s' % (m.role, 1) }}{{ 'a' in m.content }}{{ m.role == 'user' }}{{ 7 // 2 }}{{ 2 ** 3 }}{{ 7 % 4 }}"
    "{{ 1 + 2.5 }}{{ [1] + [m.role] }}{{ [0] * 2 }}{{ 'ab' * 0 }}{{ not m.content }}{{ m.role < 'b' }}",
    "formats": "{{ '%s/%5.1f' | format(m.role, 1.25) }}{{ '{} {x}'.format(m.role, x=m.content) }}"
    "{{ '{0[role]}'.format(m) }}{{ '{a}'.format_map({'a': m.role}) }}{{ '%(a)s' % {'a': m.content} }}",
    "items": "{% for k, v in m | items %}{{ k }}={{ v }};{% endfor %}{{ m.get('name', '-') }}{{ m.keys() | list }}"
    "{{ m | dictsort }}{{ m['content'] }}{{ m.absent }}{{ m.absent is defined }}{{ 'name' in m }}",
    "calls": "{% for c in m.tool_calls or [] %}{{ c | tojson }}{{ c.function.arguments | tojson(indent=1) }}{{ c }}"
    "{% for k, v in c.function.arguments.items() %}{{ k }}:{{ v | tojson }}{{ v is string }}{{ v is iterable }}"
    "{% endfor %}{% endfor %}{{ m.tool_calls }}",
    "loop": "{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}"
    "{{ loop.cycle('a', 'b') }}"
    "{{ '' if loop.first else loop.previtem.role }}{{ '' if loop.last else loop.nextitem.role }}{{ loop.depth }}"
    "{% if loop.changed(m.role) %}!{% endif %}",
    "control": "{% if loop.index == 2 %}{% continue %}{% endif %}{{ m.content }}"
    "{% if loop.index > 3 %}{% break %}{% endif %}",
    "sets": "{% set text %}[{{ m.content }}]{% endset %}{{ text | upper }}{% set a, b = m.role, 1 %}{{ a }}{{ b }}"
    "{% set ns = namespace(n=loop.index, t=m.content) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ ns.t }}",
    "blocks": "{% filter upper %}{{ m.content }}{% endfilter %}{% with x = m.content %}{{ x }}{% endwith %}"
    "{% macro show(t, n=1) %}<{{ t * n }}>{{ caller() if caller else '' }}{% endmacro %}{{ show(m.role, n=2) }}"
    "{% call show(m.content) %}{{ m.role }}{% endcall %}{% raw %}{{ m }}{% endraw %}{# no #}",
    "white space": "\n  {% if true %}\n    {{ m.role }}  \n  {%- endif %}\n\n  {{- m.content -}}\n",
    "generation": "{% generation %}{{ m.content }}{% endgeneration %}",
    "globals": "{% for i in range(3) %}{{ i }}{% endfor %}{{ dict(a=m.role) }}{{ namespace(x=m.role).x }}"
    "{{ cycler('a', 'b').next() }}{% set j = joiner(',') %}{{ j() }}{{ m.role }}{{ j() }}",
    "tests": "{{ m is mapping }}{{ m.content is string }}{{ m.content is iterable }}{{ m.content is sequence }}"
    "{{ m.content is lower }}{{ m.n is undefined }}{{ m.n is none }}{{ 3 is odd }}{{ m.role is eq 'user' }}"
    "{{ m.role is in ['user'] }}{{ m.content is sameas m.content }}{{ m.content is escaped }}{{ m is callable }}",
}
SOURCES = {
    **{name: "{% for m in messages %}" + body + "{% endfor %}" for name, body in BODIES.items()},
    **{f"messages | {filter_}": f"{{{{ messages | {filter_} }}}}" for filter_ in OF_MESSAGES},
    "variables": "{{ bos_token }}{{ tools }}{{ tools | tojson }}{{ documents }}{{ add_generation_prompt }}{{ absent }}",
    "list of messages": "{{ messages[0] }}{{ messages[-1].content }}{{ messages[1:3] | length }}{{ messages[::-1][0] }}"
    "{{ messages is sequence }}{{ messages is string }}{{ messages is mapping }}{{ messages }}",
    "prompt": "{% if add_generation_prompt %}A:{% endif %}{{ '' if add_generation_prompt else bos_token }}",
    "recursion": "{% for m in messages recursive %}{{ m.role }}"
    "{% if m is mapping %}{{ loop([{'role': 'x'}.role]) }}{% endif %}{% endfor %}",
    "nested": "{% for a in messages %}{% for b in messages if b.role != a.role %}{{ b.role }}{% else %}-{% endfor %}"
    "{% endfor %}",
}


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_it_prints_what_transformers_prints(source: str, prompt: bool) -> None:
    variables = {"bos_token": "<s>", "tools": TOOLS, "add_generation_prompt": prompt}
    expected = render_jinja_template([MESSAGES], chat_template=source, **variables)[0][0]
    template = ChatTemplate(source)
    options = {"bos_token": "<s>"}
    assert template.render(MESSAGES, TOOLS, prompt, **options) == expected
    assert template.trace(MESSAGES, TOOLS, prompt, **options).text == expected


def test_the_date_is_todays() -> None:
    assert ChatTemplate("{{ strftime_now('%Y-%m-%d') }}").render([]) == datetime.now().strftime("%Y-%m-%d")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "the chat template rejects it: roles must alternate"),
        ("{{ messages[0].absent.absent }}", "the chat template rejects it: .*absent"),
        ("{{ messages | length + 'x' }}", "the chat template fails: TypeError"),
        ("{{ messages[9] .content }}", "the chat template rejects it: .*no element 9"),
        ("{{ 1 / 0 }}", "the chat template fails: ZeroDivisionError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "the chat template recurses without end"),
        (
            "{{ 'x' * 9999999999 }}",
            "the chat template cannot be rendered: it exceeds the limit of 4,194,304 characters",
        ),
        ("{% include 'x' %}", "the chat template fails: TypeError: no loader"),
        ("{{ ''.__class__.x }}", "the chat template rejects it: .*'__class__'.*unsafe"),
    ],
)
@pytest.mark.parametrize("way", ["render", "trace"])
def test_a_template_that_fails_is_a_bad_row(source: str, reason: str, way: str) -> None:
    template = ChatTemplate(source)
    with pytest.raises(RowError, match=reason):
        getattr(template, way)(MESSAGES)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for", "line 1: "),
        ("\n\n{% endfor %}", "line 3: .*endfor"),
        ("a\n{{ x | nothing }}", "line 2: No filter named 'nothing'"),
        ("{% generation %}", "line 1: .*end of template"),
        ("{{ x }}" * 100_000, "exceeds the limit of 1 s of CPU time"),
    ],
)
def test_an_invalid_template_says_where(source: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ChatTemplate(source)


def test_messages_and_the_like_cannot_be_replaced() -> None:
    template = ChatTemplate("{{ messages | length }}{{ tools }}{{ add_generation_prompt }}{{ documents }}{{ x }}")
    assert template.render(MESSAGES[:2], None, True, x="y") == "2NoneTrueNoney"
    assert template.render(MESSAGES[:2], None, True, documents=[1]) == "2NoneTrue[1]"


@pytest.mark.parametrize(
    "change",
    [
        *("messages[1].update(role='x')", "messages[1].pop('content')", "messages[1].clear()"),
        *("messages[1].setdefault('x', 1)", "tools.append(1)", "tools[0].update(type='x')"),
        *("messages[2].tool_calls.clear()", "messages[2].tool_calls[0].function.arguments.pop('a')"),
    ],
)
@pytest.mark.parametrize("way", ["render", "trace"])
def test_nothing_that_is_given_can_be_changed(change: str, way: str) -> None:
    messages, tools = copy.deepcopy((MESSAGES, TOOLS))
    with pytest.raises(RowError, match="the chat template rejects it: "):
        getattr(ChatTemplate("{{ " + change + " }}"), way)(messages, tools)
    assert (messages, tools) == (MESSAGES, TOOLS)


@pytest.mark.parametrize("way", ["render", "trace"])
def test_a_template_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Also where no trial could show it, because it does so only for some conversations."""
    loops = "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}"
    template = ChatTemplate("{% if messages | length == " + str(len(MESSAGES)) + " %}" + loops + "{% endif %}")
    monkeypatch.setattr(limits, "SECONDS", 0.02)
    with pytest.raises(RowError, match=r"exceeds the limit of 0\.02 s of CPU time"):
        getattr(template, way)(MESSAGES)


def test_nothing_stays_from_one_rendering_to_the_next() -> None:
    template = ChatTemplate(
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
    )
    with ThreadPoolExecutor(4) as pool:
        counts = [index % 5 for index in range(40)]
        assert list(pool.map(lambda n: template.render(MESSAGES[:n]), counts)) == [str(count) for count in counts]


def tags(source: str, messages: Any = MESSAGES) -> list[Any]:
    """Return the tags of a tracing, with what they tag."""
    rendering = ChatTemplate(source).trace(messages)
    return [(rendering.text[start:end], split_tag(tag) if tag >= 0 else tag) for start, end, tag in rendering.pieces]


TWO = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}<{{ m.content }}>{% endfor %}",
        "{% for i in range(messages | length) %}{% set m = messages[i] %}<{{ m.content }}>{% endfor %}",
        "{% for i in range(messages | length) %}<{{ messages[i].content }}>{% endfor %}",
        "{% for m in messages %}{% if true %}<{{ m.content }}>{% continue %}{% endif %}x{% endfor %}",
        "{% for m in messages %}{% set m = {'role': m.role, 'content': m.content} %}<{{ m.content }}>{% endfor %}",
    ],
)
def test_a_loop_marks_what_it_prints_of_each_message(source: str) -> None:
    found = [(text, tag) for text, tag in tags(source, TWO) if tag[1] in (ENTER, EXIT, CONTENT)]
    found = [key for key, _ in itertools.groupby(found)]
    assert found == [
        *(("", (0, ENTER)), ("q", (0, CONTENT)), ("", (0, EXIT))),
        *(("", (1, ENTER)), ("a", (1, CONTENT)), ("", (1, EXIT))),
    ]


def test_generation_is_marked() -> None:
    found = tags("{% for m in messages %}<{% generation %}{{ m.content }}!{% endgeneration %}>{% endfor %}", TWO)
    assert [tag for _, tag in found if isinstance(tag, int)] == [GENERATION, END_GENERATION] * 2


def test_text_of_several_messages_is_mixed() -> None:
    assert tags("{{ (messages[0].content ~ messages[1].content).center(2) }}", TWO) == [("qa", MIXED)]
    assert tags("{{ '%r' % messages[1].content }}", TWO) == [("'a'", MIXED)]
    assert tags("{{ '{:>2}'.format(messages[1].content) }}", TWO) == [(" a", MIXED)]


@pytest.mark.parametrize(
    "source",
    [
        "{{ '%s-%s' % (messages[0].content, messages[1].content) }}",
        "{{ '%s-%s' | format(messages[0].content, messages[1].content) }}",
        "{{ '%(x)s-%(y)s' | format(x=messages[0].content, y=messages[1].content) }}",
        "{{ '{}-{}'.format(messages[0].content, messages[1].content) }}",
        "{{ '{1}-{0}'.format(messages[1].content, messages[0].content) }}",
        "{{ '{x}-{y}'.format(x=messages[0].content, y=messages[1].content) }}",
        "{{ '{x}-{y}'.format_map({'x': messages[0].content, 'y': messages[1].content}) }}",
    ],
)
def test_what_is_formatted_plainly_keeps_its_origin(source: str) -> None:
    assert tags(source, TWO) == [("q", (0, CONTENT)), ("a", (1, CONTENT))]


texts = st.text(alphabet="a%s(){}0:1", max_size=4)
values = texts | st.integers(-9, 9) | st.none() | st.booleans() | st.floats(-1, 1) | st.lists(texts, max_size=1)


@examples(100)
@given(
    st.lists(st.sampled_from(["%s", "%%", "%d", "%(a)s", "%r", "%", "a", "(", "%5s"]), max_size=4).map("".join),
    values | st.lists(values, max_size=3).map(tuple) | st.fixed_dictionaries({"a": values}),
)
def test_the_percent_sign_formats_as_ever(template: str, values: Any) -> None:
    check("{{ t % v }}", t=template, v=values)


JINJA = ImmutableSandboxedEnvironment()


@pytest.mark.parametrize(
    ("template", "values"),
    [("%%", ()), ("%s%%", ("a",)), ("%%s", {"a": 1}), ("%(a)s%%%(a)s", {"a": "x"}), ("%s", "x"), ("%s-%s", ("x", "y"))],
)
def test_percent_signs(template: str, values: Any) -> None:
    check("{{ t % v }}", t=template, v=values)


FIELDS = ["{}", "}}", "{0}", "{1}", "{a}", "{a!r}", "{:>3}", "{0[0]}", "{a.b}", "{", "}", "-"]


@examples(100)
@given(st.lists(st.sampled_from(FIELDS), max_size=3).filter(lambda fields: not mixed(fields)).map("".join), values)
def test_braces_format_as_ever(template: str, value: Any) -> None:
    check("{{ t.format(v, 'x', a=v) }}", t=template, v=value)
    check("{{ t.format_map({'a': v}) }}", t=template, v=value)


@pytest.mark.parametrize("template", ["{{", "}}", "{{}}", "{{{}}}", "{{0}}{}", "{}{{"])
def test_doubled_braces(template: str) -> None:
    check("{{ t.format('x') }}", t=template)


def mixed(fields: list[str]) -> bool:
    """Whether some fields are numbered, and others are not, or a brace is doubled; both have tests below."""
    return "{{" in "".join(fields) or bool({"{}", "{:>3}"} & {*fields} and {"{0}", "{1}", "{0[0]}"} & {*fields})


def check(source: str, **variables: Any) -> None:
    """Check that it is printed, or refused, as Jinja does."""
    try:
        text = JINJA.from_string(source).render(**variables)
    except (TypeError, ValueError, LookupError, AttributeError, TemplateError):
        with pytest.raises(RowError):
            ChatTemplate(source).render([], **variables)
    else:
        assert ChatTemplate(source).render([], **variables) == text


def test_fields_with_and_without_numbers_are_refused() -> None:
    with pytest.raises(RowError, match="automatic field numbering"):
        ChatTemplate("{{ '{}{0}'.format('a') }}").render([])


@pytest.mark.parametrize(
    "source",
    ["{{ [messages[1].content] }}", "{{ messages[1] }}", "{{ '' ~ [messages[1].content] }}", "{{ messages | tojson }}"],
)
def test_a_printed_list_is_tagged(source: str) -> None:
    assert tags(source, TWO)


@pytest.mark.parametrize("name", ["_enter", "_exit", "_step"])
def test_what_marks_a_message_is_no_filter_of_a_template(name: str) -> None:
    with pytest.raises(ValueError, match=f"No filter named '{name}'"):
        ChatTemplate("{% for m in messages %}{{ m.content | " + name + " }}{% endfor %}")
    with pytest.raises(RowError, match="No filter named"):
        ChatTemplate("{{ ['a'] | map('" + name + "') | list }}").render([])


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (jinja2.sandbox.SandboxedEnvironment, "call_binop"),
        (jinja2.Template, "new_context"),
        (jinja2.utils.Namespace, "__setitem__"),
        (jinja2.filters, "make_attrgetter"),
    ],
)
def test_a_renamed_private_name_of_jinja_is_an_error(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    renderer._check_jinja.cache_clear()
    monkeypatch.delattr(owner, name)
    with pytest.raises(
        SftError, match=rf"jinja2 [\d.]+ does not fit .* tested with jinja2.*: {owner.__name__}: {name} "
    ):
        ChatTemplate("{{ 'a template that was never seen before' }}" + name)
    monkeypatch.undo()


@pytest.mark.parametrize("source", ["{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"])
def test_a_template_that_always_takes_too_long_is_rejected(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.1)
    with pytest.raises(ValueError, match=r"exceeds the limit of 0\.1 s of CPU time"):
        ChatTemplate(source)


def test_a_template_that_takes_too_much_memory_is_rejected() -> None:
    with pytest.raises(ValueError, match="exceeds the limit of 256 MiB of memory"):
        ChatTemplate(
            "{% set ns = namespace(x=0) %}{% for i in range(999) %}"
            "{% set ns.x = [ns.x, 'a' * 4000000 ~ i] %}{% endfor %}"
        )


LONG = ["'x' | center(3000000000)", "'x'.ljust(3000000000)", "'x'.zfill(3000000000)", "'\\t'.expandtabs(2000000000)"]
LONG += ["'\\t'.expandtabs(tabsize=2000000000) | length"]
LONG += ["('a' * 2500).replace('a', 'b' * 1000000)", "('a' * 2500) | replace('a', 'b' * 1000000)"]
LONG += ["'x\\ny' | indent(2000000000)", "strftime_now('%9999999d')", "strftime_now('%d' * 4000)"]


@pytest.mark.parametrize("expression", LONG)
def test_a_text_that_some_contents_make_too_long_rejects_the_row(expression: str) -> None:
    template = ChatTemplate("{% if messages[0].content == 'now' %}{{ " + expression + " }}{% endif %}x")
    assert template.render([{"role": "user", "content": "a"}]) == "x"
    for render in (template.render, template.trace):
        with pytest.raises(RowError, match=r"exceeds the limit of [\d,]+ characters|width that is too large"):
            render([{"role": "user", "content": "now"}])


def test_the_timer_of_a_rendering_ends_with_it() -> None:
    """Also where another signal is pending when it ends."""
    source = "{% if messages | length > 4 %}{% macro burn() %}{% for i in range(99999) %}{% for j in range(99999) %}"
    source += "{% endfor %}{% endfor %}{% endmacro %}{% set s = 'ab ' * 1300000 %}"
    source += "{{ [s.split(' '), s.split(' '), s.split(' '), s.split(' '), burn()] | length }}{% endif %}"
    with pytest.raises(RowError, match="CPU time"):
        ChatTemplate(source).render([{"role": "user", "content": "a"}] * 5)
    assert limits._until == float("inf")
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
