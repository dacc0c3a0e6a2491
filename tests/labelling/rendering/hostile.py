"""Hostile chat templates, and a program that renders each in a process of its own and reports the result.

Usage: hostile.py (rendered | traced | unprotected) [NAME ...]
"""

from __future__ import annotations

import copy
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

Harm = Literal["breaks out", "shows", "changes", "memory", "time", "crash", "nothing"]
"""What the template does where nothing protects: makes the folder ``pwned`` or prints the secret; prints what it should
not see; changes the messages; takes memory; takes time; ends with an error that is not Jinja's; nothing that shows."""

SECRET = "the-secret-9f1c"  # in the globals of raise_exception below, and in a file secret.txt beside the process


class Hostile(NamedTuple):
    """A template; *harmless* is what it may print in place of an error, because that tells and changes nothing."""

    harm: Harm
    source: str
    harmless: str | None = None


def loop(times: int, body: str, end: str = "") -> str:
    return "{% for i in range(" + str(times) + ") %}" + body + "{% endfor %}" + end


def doubled(step: str, start: str = "'aa'", end: str = "{{ ns.x | length }}", times: int = 40) -> str:
    """Return a template that sets ns.x to *step* again and again."""
    return "{% set ns = namespace(x=" + start + ") %}" + loop(times, "{% set ns.x = " + step + " %}", end)


def many(text: str, size: int, template: str) -> str:
    """Return a template with a variable x of *size* times *text*."""
    return "{% set n = " + str(size) + " %}{% set x = '" + text + "' * n %}" + template


ESCAPES = {
    "cycler": Hostile("breaks out", "{{ cycler.__init__.__globals__.os.mkdir('pwned') }}"),
    "joiner": Hostile("breaks out", "{{ joiner.__init__.__globals__.os.mkdir('pwned') }}"),
    "lipsum": Hostile("breaks out", "{{ lipsum.__globals__['os'].mkdir('pwned') }}"),
    "namespace": Hostile("breaks out", "{{ namespace.__init__.__globals__.os.mkdir('pwned') }}"),
    "raise_exception": Hostile("breaks out", "{{ raise_exception.__globals__.os.mkdir('pwned') }}"),
    "strftime_now": Hostile("breaks out", "{{ strftime_now.__globals__.os.mkdir('pwned') }}"),
    "globals printed": Hostile("breaks out", "{{ raise_exception.__globals__ }}", ""),
    "code of a function": Hostile("shows", "{{ raise_exception.__code__ }}", ""),
    "builtins": Hostile("breaks out", "{{ raise_exception.__builtins__.__import__('os').mkdir('pwned') }}"),
    "subclasses": Hostile(
        "breaks out",
        "{% for c in ''.__class__.__mro__[1].__subclasses__() %}{% if c.__name__ == '_wrap_close' %}"
        "{{ c.__init__.__globals__['mkdir']('pwned') }}{% endif %}{% endfor %}",
        "",
    ),
    "class": Hostile("shows", "{{ ''.__class__ }}", ""),
    "class by item": Hostile("shows", "{{ ''['__class__'] }}", ""),
    "class of a message": Hostile("shows", "{{ messages[0].content.__class__.__mro__ }}", ""),
    "class of an undefined": Hostile("shows", "{{ nothing.__class__ }}", ""),
    "exception of an undefined": Hostile("shows", "{{ nothing._undefined_exception.mro() }}", ""),
    "mro": Hostile("shows", "{{ ().__class__.mro() }}"),
    "attr filter": Hostile("breaks out", "{{ (cycler | attr('__init__') | attr('__globals__')).os.mkdir('pwned') }}"),
    "attr filter by map": Hostile("shows", "{{ ([''] | map('attr', '__class__') | list)[0] }}", ""),
    "names in parts": Hostile("breaks out", "{{ cycler['__in' ~ 'it__']['__glo' ~ 'bals__'].os.mkdir('pwned') }}"),
    "map attribute": Hostile(
        "breaks out", "{{ ([cycler] | map(attribute='__init__.__globals__.os') | list)[0].mkdir('pwned') }}"
    ),
    "groupby attribute": Hostile("breaks out", "{{ ([raise_exception] | groupby('__globals__'))[0][0] }}", ""),
    "selectattr": Hostile("shows", "{{ ['x'] | selectattr('__class__') | list | join }}", ""),
    "sort attribute": Hostile("shows", "{{ [1, 2] | sort(attribute='__class__.__name__') }}", "[1, 2]"),
    "self": Hostile("shows", "{{ self.__init__.__globals__ }}", ""),
    "context by self": Hostile("shows", "{{ self._TemplateReference__context.environment }}", ""),
    "function of a macro": Hostile("shows", "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}", ""),
    "closure of a caller": Hostile(
        "shows", "{% macro m() %}{{ caller._func.__code__ }}{% endmacro %}{% call m() %}{% endcall %}", ""
    ),
    "inside of a loop": Hostile("shows", "{% for m in messages %}{{ loop._iterable }}{% endfor %}", ""),
    "frame of a generator": Hostile("shows", "{{ (messages | map('string')).gi_frame.f_globals }}", ""),
    "code of a generator": Hostile("shows", "{{ (messages | map('string')).gi_code }}", ""),
    "format": Hostile("breaks out", "{{ '{0.__globals__[SECRET]}'.format(raise_exception) }}"),
    "format shows a class": Hostile("shows", "{{ '{0.__class__}'.format('') }}", ""),
    "format of a message": Hostile("breaks out", "{{ messages[0].content.format(raise_exception) }}"),
    "format_map": Hostile("breaks out", "{{ '{f.__globals__[SECRET]}'.format_map({'f': raise_exception}) }}"),
    "format of a message as map": Hostile("breaks out", "{{ messages[1].content.format_map({'f': raise_exception}) }}"),
    "format kept": Hostile("breaks out", "{% set f = '{0.__globals__[SECRET]}'.format %}{{ f(raise_exception) }}"),
    "format by attr": Hostile("breaks out", "{{ ('{0.__globals__[SECRET]}' | attr('format'))(raise_exception) }}"),
    "format by item": Hostile("breaks out", "{{ '{0.__globals__[SECRET]}'['format'](raise_exception) }}"),
    "format by map": Hostile(
        "breaks out",
        "{{ (['{0.__globals__[SECRET]}'] | map(attribute='format') | list)[0](raise_exception) }}",
    ),
    "format of markup": Hostile("breaks out", "{{ ('{0.__globals__[SECRET]}' | escape).format(raise_exception) }}"),
    "format of a call block": Hostile(
        "breaks out", "{% macro m(f) %}{{ f(raise_exception) }}{% endmacro %}{{ m('{0.__globals__[SECRET]}'.format) }}"
    ),
    "runs of our strings": Hostile("nothing", "{{ messages[0].content._runs }}", ""),
    "runs of our strings by item": Hostile("nothing", "{{ messages[0].content['_runs'] }}", ""),
    "runs of our strings by attr": Hostile("nothing", "{{ messages[0].content | attr('_runs') }}", ""),
    "runs of our strings by format": Hostile("crash", "{{ '{0._runs}'.format(messages[0].content) }}", ""),
    "runs of our strings by map": Hostile("nothing", "{{ messages | map(attribute='content._runs') | join }}", ""),
    "include": Hostile("breaks out", "{% include 'secret.txt' %}"),
    "include of several": Hostile("breaks out", "{% include ['nothing', 'secret.txt'] ignore missing %}", ""),
    "include of an absolute path": Hostile("shows", "{% include '/etc/passwd' %}"),
    "import": Hostile("breaks out", "{% import 'secret.txt' as s %}{{ s }}"),
    "import of names": Hostile("shows", "{% from 'secret.txt' import x %}{{ 'no error' }}"),
    "extends": Hostile("breaks out", "{% extends 'secret.txt' %}"),
}

CHANGES = {
    "append": Hostile("changes", "{{ messages.append({'role': 'user', 'content': 'x'}) }}"),
    "clear": Hostile("changes", "{{ messages.clear() }}"),
    "reverse": Hostile("changes", "{{ messages.reverse() }}"),
    "pop": Hostile("changes", "{{ messages[0].pop('content') }}"),
    "update": Hostile("changes", "{{ messages[0].update({'content': 'x'}) }}"),
    "update by the type": Hostile("changes", "{{ dict.update(messages[0], {'content': 'x'}) }}"),
    "update by attr": Hostile("changes", "{{ (messages[0] | attr('update'))({'content': 'x'}) }}"),
    "update of a tool": Hostile("changes", "{{ tools[0].function.update({'name': 'x'}) }}"),
    "setitem": Hostile("changes", "{{ messages.__setitem__(0, 1) }}"),
    "method kept": Hostile("changes", "{% set f = messages.pop %}{{ f() }}"),
    "method by map": Hostile("changes", "{{ ([messages] | map(attribute='clear') | list)[0]() }}"),
    "dunder in a namespace": Hostile("nothing", "{% set ns = namespace() %}{% set ns.__class__ = 1 %}x"),
    "dunder in a new namespace": Hostile("nothing", "{% set ns = namespace(__init__=1) %}x"),
}

WIDE = "{% set n = 100000 %}" + "".join(
    f"{{% set {inner} = [0] * n %}}{{% set {outer} = [{inner}] * n %}}" for inner, outer in ("ab", "cd")
)
"""Sets b and d, lists of as many lists of as many numbers, and a and c, what they hold."""
WIDE_TUPLE = "{% set n = 100000 %}{% set u = ((0,) * n,) * n %}"
WIDE_VALUES = WIDE.replace("[a] * n", "dict.fromkeys(range(90000), a)").replace(
    "[c] * n", "dict.fromkeys(range(90000), c)"
)
"""Sets b and d, dictionaries of many lists."""
ADDED = "{% set a = namespace(x=[[0] * 9999]) %}{% set b = namespace(x=[[0] * 9999]) %}" + loop(
    20, "{% set a.x = a.x + a.x %}{% set b.x = b.x + b.x %}"
)

OF_TWO = "{% set x = (messages[0].content ~ messages[1].content[1:] ~ '\n') * 4000 %}"
"""Sets x, a text of 12,000 stretches of one origin each."""

BOMB = doubled("[ns.x, ns.x]", "[]", "")
TWO_BOMBS = "{% set a = namespace(x=[1]) %}{% set b = namespace(x=[1]) %}" + loop(
    60, "{% set a.x = [a.x, a.x] %}{% set b.x = [b.x, b.x] %}"
)

TIME = {
    "long loop": Hostile("time", "{% for i in range(10 ** 10) %}{% endfor %}"),
    "nested loops": Hostile("time", loop(30000, loop(30000, loop(30000, "")))),
    "list that grows": Hostile("time", "{% set l = [0] %}{% for x in l %}{% if l.append(x) %}{% endif %}{% endfor %}"),
    "macro that doubles": Hostile(
        "time", "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "loop that doubles": Hostile(
        "time", "{% for x in [1, 1] recursive %}{{ loop([1, 1]) if loop.depth < 60 }}{% endfor %}"
    ),
    "sum": Hostile("time", "{{ range(10 ** 10) | sum }}"),
    "min": Hostile("time", "{{ range(10 ** 10) | min }}"),
    "count of a range": Hostile("time", "{{ range(10 ** 10) | map('string') | max }}"),
    "search": Hostile("time", many("a", 90000, loop(90000, "{% if 'aaaaaaaaab' in x %}{% endif %}"))),
    "count": Hostile("time", many("a", 90000, loop(90000, "{% if x.count('aaaaaaaaab') %}{% endif %}"))),
    "slices": Hostile("time", many("a", 90000, loop(90000, loop(90000, "{% if x[1:] %}{% endif %}")))),
    "wordwrap": Hostile("time", many("a ", 3000000, "{{ x | wordwrap(1) | length }}")),
    "searched in a loop's condition": Hostile(
        "time", "{% set l = range(99999) | list %}{% for j in l if -1 in l %}{% endfor %}"
    ),
    "searched by select": Hostile("time", "{% set l = range(99999) | list %}{{ l | select('in', l) | list | length }}"),
    "equal lists": Hostile("time", TWO_BOMBS + "{{ a.x == b.x }}"),
    "smaller list": Hostile("time", TWO_BOMBS + "{{ a.x < b.x }}"),
    "list in a list": Hostile("time", TWO_BOMBS + "{{ a.x in [b.x] }}"),
    "sorted lists": Hostile("time", TWO_BOMBS + "{{ [a.x, b.x] | sort | length }}"),
    "index of a list": Hostile("time", TWO_BOMBS + "{{ [a.x].index(b.x) }}"),
    "unique lists": Hostile("time", doubled("(ns.x, ns.x)", "()", "{{ [ns.x] | unique | list | length }}", 60)),
    "key of tuples": Hostile("time", doubled("(ns.x, ns.x)", "()", "{{ {ns.x: 1} | length }}", 60)),
    "power of constants": Hostile("time", "{{ 7 ** (10 ** 9) % 3 }}"),
    "power": Hostile("time", "{% set n = 10 ** 9 %}{{ 7 ** n % 3 }}"),
    "squares": Hostile("time", doubled("ns.x * ns.x", "3", "{{ ns.x % 7 }}")),
    "rounding": Hostile("time", "{{ 1 | round(10 ** 9, 'ceil') }}"),
    "lipsum": Hostile("time", "{{ lipsum(100000) | length }}"),
    "searched among long texts": Hostile(
        "time", "{% set n = 999999 %}{% set x = 'a' * n %}{{ (x ~ 'b') in [x ~ 'c', x ~ 'd'] * 400000 }}"
    ),
    "long texts counted": Hostile(
        "time", "{% set n = 999999 %}{% set x = 'a' * n %}{{ ([x ~ 'c', x ~ 'd'] * 400000).count(x ~ 'b') }}"
    ),
    "long texts compared": Hostile(
        "time", "{% set n = 999999 %}{% set x = 'a' * n %}{{ [x ~ 'c'] * 900000 == [x ~ '' ~ 'c'] * 900000 }}"
    ),
    "long texts compared by a test": Hostile(
        "time", "{% set n = 999999 %}{% set x = 'a' * n %}{{ ([x ~ 'c'] * 900000) is eq([x ~ '' ~ 'c'] * 900000) }}"
    ),
    "largest of long texts": Hostile(
        "time", "{% set n = 999999 %}{% set x = 'a' * n %}{{ ([x ~ 'c', x ~ 'd'] * 400000) | max(true) | length }}"
    ),
    "search from the right": Hostile("time", many("a", 1000000, "{% set m = n // 2 %}{{ x.rfind('ab' ~ 'a' * m) }}")),
    "split from the right": Hostile(
        "time", many("a", 1000000, "{% set m = n // 2 %}{{ x.rsplit('ab' ~ 'a' * m) | length }}")
    ),
    "brackets of a link": Hostile(
        "time", many("(", 900000, "{{ ('http://a.bc/' ~ x ~ x | replace('(', ')')) | urlize | length }}")
    ),
    "errors that are caught": Hostile(
        "time", loop(30000, loop(30000, "{% if " + " or ".join(["0 is sequence"] * 9) + " %}{% endif %}"))
    ),
    "equal lists by hand": Hostile(
        "time",
        "{% set a = [1] %}{% set b = [1] %}" + "{% set a = [a, a] %}{% set b = [b, b] %}" * 60 + "{{ a == b }}",
    ),
    "equal lists by macro": Hostile(
        "time",
        "{% macro f(a, b, n) %}{{ f([a, a], [b, b], n - 1) if n else a == b }}{% endmacro %}{{ f([1], [1], 60) }}",
    ),
    "equal lists by filters": Hostile(
        "time",
        TWO_BOMBS.replace("[a.x, a.x]", "([a.x] * 2) | list").replace("[b.x, b.x]", "([b.x] * 2) | list")
        + "{{ a.x == b.x }}",
    ),
    "equal dictionaries": Hostile(
        "time",
        TWO_BOMBS.replace("[a.x, a.x]", "dict(x=a.x, y=a.x)").replace("[b.x, b.x]", "dict(x=b.x, y=b.x)")
        + "{{ a.x == b.x }}",
    ),
    "equal by a test": Hostile("time", TWO_BOMBS + "{{ a.x is equalto(b.x) }}"),
    "equal by selectattr": Hostile(
        "time", TWO_BOMBS + "{{ [{'k': a.x}] | selectattr('k', 'in', [b.x]) | list | length }}"
    ),
    "wide list compared": Hostile("time", WIDE + "{{ b == d }}"),
    "wide sums compared": Hostile("time", ADDED + "{{ a.x == b.x }}"),
    "wide sum of a list": Hostile(
        "time", ADDED.replace("a.x + a.x", "[a.x, a.x] | sum(start=[])") + "{{ a.x == b.x }}"
    ),
    "wide tuple in a dictionary": Hostile("time", WIDE_TUPLE + "{{ u in {} }}"),
    "wide tuple got": Hostile("time", WIDE_TUPLE + "{{ {}.get(u) }}"),
    "wide tuple as a key": Hostile("time", WIDE_TUPLE + "{{ {u: 1} | length }}"),
    "wide tuple as an item": Hostile("time", WIDE_TUPLE + "{{ {}[u] }}"),
    "wide tuple in by a test": Hostile("time", WIDE_TUPLE + "{{ u is in({}) }}"),
    "wide views compared": Hostile("time", WIDE_VALUES + "{{ b.items() == d.items() }}"),
    "wide views compared by a test": Hostile("time", WIDE_VALUES + "{{ b.items() is eq(d.items()) }}"),
    "list in wide values": Hostile("time", WIDE_VALUES + "{{ ([0] * (n - 1) + [1]) in b.values() }}"),
    "list in a generator": Hostile(
        "time",
        "{% set n = 100000 %}{{ ([0] * (n - 1) + [1]) in ([{'k': [0] * n}] * 1000000) | map(attribute='k') }}",
    ),
    "list in a generator by a test": Hostile(
        "time",
        "{% set n = 100000 %}{{ ([0] * (n - 1) + [1]) is in(([{'k': [0] * n}] * 1000000) | map(attribute='k')) }}",
    ),
    "changes of a loop": Hostile(
        "time", WIDE + "{% for x in [1, 2] %}{{ loop.changed(b if x == 1 else d) }}{% endfor %}"
    ),
    "attributes of nothing": Hostile(
        "time", "{% set l = [{}] * 1000000 %}{{ l | map(attribute='.'.join(['a'] * 30), default=1) | list | length }}"
    ),
    "sort by many attributes": Hostile(
        "time", "{% set l = [{'k': 'a'}] * 80000 %}{{ l | sort(attribute=','.join(['k'] * 500)) | length }}"
    ),
    "long word wrapped": Hostile("time", many("a", 500000, "{{ x | wordwrap(1) | length }}")),
    "long word wrapped wider": Hostile("time", many("a\n", 200000, "{{ x | wordwrap | length }}"), "399999"),
    "longer word wrapped wider": Hostile("time", many("a\n", 2000000, "{{ x | wordwrap | length }}")),
    "letters of many messages": Hostile("nothing", OF_TWO + "{{ x | list | length }}", "184000"),
    "letters joined of many messages": Hostile("nothing", OF_TWO + "{{ x | join('') | length }}", "184000"),
    "parts of many messages": Hostile("nothing", OF_TWO + "{{ x.split('_') | length }}", "32001"),
    "lines of many messages": Hostile("nothing", OF_TWO + "{{ x.splitlines() | length }}", "4000"),
    "pieces of many messages": Hostile("nothing", OF_TWO + "{{ x.replace('_', '--').split('-') | length }}", "64001"),
    "loops and macros": Hostile(
        "nothing",
        "".join("{%macro m" + str(number) + "()%}{%endmacro%}" for number in range(4000))
        + "{%for m in messages%}{{m.a}}{%endfor%}" * 4000,
    ),
    "chain of assignments": Hostile(
        "nothing",
        "".join("{%set a" + str(number) + "=a" + str(number + 1) + "%}" for number in range(6000))
        + "{%set a6000=messages%}{%for m in a0%}{%endfor%}",
    ),
    "assignments by twos": Hostile(
        "nothing",
        "{%set a0=messages%}"
        + "".join(f"{{%set a{n + 1}=a{n}%}}{{%set a{n + 1}=a{n}%}}" for n in range(60))
        + "{%for m in a60%}x{%endfor%}",
        "xxxx",
    ),
    "many branches": Hostile("nothing", "{%if messages%}{{messages}}{%endif%}" * 9000),
    "long source": Hostile("time", "{{ x }}" * 100000),
}

MEMORY = {
    "text times a number": Hostile("memory", "{{ 'a' * 10 ** 10 }}"),
    "number times a text": Hostile("memory", "{% set n = 10 ** 10 %}{{ (n * 'a') | length }}"),
    "text of 300 MB": Hostile("memory", many("a", 300_000_000, "{{ x | length }}")),
    "text of a message times a number": Hostile("memory", "{{ messages[0].content * 20000000 }}"),
    "list times a number": Hostile("memory", "{% set n = 10 ** 9 %}{{ ([0] * n) | length }}"),
    "tuple times a number": Hostile("memory", "{% set n = 40000000 %}{{ ((0, 1) * n) | length }}"),
    "power of two": Hostile("memory", "{% set n = 10 ** 10 %}{{ 2 ** n % 7 }}"),
    "percent width": Hostile("memory", "{{ '%1000000000d' % 1 }}"),
    "percent width by argument": Hostile("memory", "{{ '%*d' % (1000000000, 1) }}"),
    "percent precision": Hostile("memory", "{{ '%.1000000000f' % 1.5 }}"),
    "percent filter": Hostile("memory", "{{ '%300000000s' | format('x') }}"),
    "percent of a message": Hostile("memory", "{{ messages[2].content % 1 }}"),
    "format width": Hostile("memory", "{{ '{:>1000000000}'.format('x') }}"),
    "format width by argument": Hostile("memory", "{{ '{:>{}}'.format('x', 300000000) }}"),
    "format that doubles": Hostile("memory", doubled("'{0}{0}'.format(ns.x)")),
    "percent that doubles": Hostile("memory", doubled("'%s%s' % (ns.x, ns.x)")),
    "center filter": Hostile("memory", "{{ 'x' | center(10 ** 9) }}"),
    "center": Hostile("memory", "{{ 'x'.center(300000000) }}"),
    "ljust": Hostile("memory", "{{ 'x'.ljust(10 ** 9) }}"),
    "rjust": Hostile("memory", "{{ 'x'.rjust(300000000) }}"),
    "zfill": Hostile("memory", "{{ '1'.zfill(10 ** 9) }}"),
    "expandtabs": Hostile("memory", "{{ '\\t'.expandtabs(10 ** 9) }}"),
    "replace": Hostile("memory", many("a", 30000, "{{ x.replace('a', x) }}")),
    "replace filter": Hostile("memory", many("a", 30000, "{{ x | replace('a', x) }}")),
    "replace nothing": Hostile("memory", many("a", 30000, "{{ x | replace('', x) }}")),
    "join": Hostile("memory", many("a", 30000, "{{ x.join(x) }}")),
    "join filter": Hostile("memory", many("a", 30000, "{{ x | join(x) }}")),
    "translate": Hostile("memory", many("a", 30000, "{{ x.translate({97: x}) }}")),
    "indent filter": Hostile("memory", many("a\\n", 30000, "{{ x | indent(30000) }}")),
    "indent by text": Hostile("memory", many("a\\n", 30000, "{{ x | indent(x) }}")),
    "batch": Hostile("memory", "{{ [1] | batch(10 ** 9, 0) | list | length }}"),
    "slice": Hostile("memory", "{{ [1] | slice(10 ** 9) | list | length }}"),
    "list of a range": Hostile("memory", "{{ range(10 ** 10) | list | length }}"),
    "dict of a range": Hostile("memory", "{{ dict.fromkeys(range(10 ** 9)) | length }}"),
    "unpacked range": Hostile("memory", "{{ '%s'.format(*range(10 ** 9)) }}"),
    "indent of JSON": Hostile("memory", "{{ [1] | tojson(indent=10 ** 9) }}"),
    "indent of nested JSON": Hostile("memory", doubled("[ns.x]", "[]", "{{ ns.x | tojson(indent=1000000) }}", 200)),
    "separators of JSON": Hostile(
        "memory", many("a", 300000, "{{ range(9999) | list | tojson(separators=(x, x)) | length }}")
    ),
    "text that doubles": Hostile("memory", doubled("ns.x ~ ns.x")),
    "sum that doubles": Hostile("memory", doubled("ns.x + ns.x")),
    "message that doubles": Hostile("memory", doubled("ns.x + ns.x", "messages[0].content")),
    "list that doubles": Hostile("memory", doubled("ns.x + ns.x", "[0]")),
    "tuple that doubles": Hostile("memory", doubled("ns.x + ns.x", "(0,)")),
    "join that doubles": Hostile("memory", doubled("[ns.x, ns.x] | join")),
    "set block that doubles": Hostile(
        "memory", "{% set ns = namespace(x='aa') %}" + loop(40, "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}")
    ),
    "macro that doubles": Hostile("memory", "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}" + doubled("m(ns.x)")),
    "filter block": Hostile("memory", many("a", 30000, "{% filter replace('a', x) %}{{ x }}{% endfilter %}")),
    "JSON of JSON": Hostile("memory", doubled("ns.x | tojson", "'\"' * 99")),
    "text of a list of letters": Hostile("memory", doubled("ns.x | list | string")),
    "text of nested lists": Hostile("memory", BOMB + "{{ ns.x }}"),
    "JSON of nested lists": Hostile("memory", BOMB + "{{ ns.x | tojson | length }}"),
    "join of nested lists": Hostile("memory", BOMB + "{{ ns.x | join }}"),
    "concatenation of nested lists": Hostile("memory", BOMB + "{{ 'x' ~ ns.x }}"),
    "percent of nested lists": Hostile("memory", BOMB + "{{ '%s' % ns.x }}"),
    "format of nested lists": Hostile("memory", BOMB + "{{ '{}'.format(ns.x) }}"),
    "pprint of nested lists": Hostile("time", BOMB + "{{ ns.x | pprint }}"),
    "sum of lists": Hostile("memory", many("a", 3000, "{{ ([x | list] * 9000) | sum(start=[]) | length }}")),
    "sort of long texts": Hostile("memory", many("a", 999999, "{{ ([x] * 900000) | sort | length }}")),
    "sort of long texts by map": Hostile(
        "memory", many("a", 999999, "{{ ([{'k': x}] * 900000) | map(attribute='k') | sort | length }}")
    ),
    "output in pieces": Hostile("memory", loop(30000, loop(30000, "{{ 'x' * 1000 }}"))),
    "output of constants": Hostile("memory", loop(30000, loop(30000, "x" * 1000))),
    "output of a message": Hostile("memory", loop(30000, loop(30000, "{{ messages }}"))),
    "set block in pieces": Hostile(
        "memory", "{% set y %}" + loop(30000, loop(30000, "x" * 1000)) + "{% endset %}{{ y | length }}"
    ),
    "list of texts": Hostile(
        "memory",
        "{% set ns = namespace(x=[]) %}"
        + loop(30000, "{% set ns.x = ns.x + [messages[0].content ~ i * 10 ~ '" + "y" * 20000 + "'] %}"),
    ),
    "letters of a text": Hostile("memory", many("你", 12_000_000, "{{ (x | list) | length }}")),
    "parts of a text": Hostile("memory", many("你,", 4_000_000, "{{ x.split(',') | length }}")),
    "lines of a text": Hostile("memory", many("你\\n", 4_000_000, "{{ x.splitlines() | length }}")),
    "chain of texts": Hostile(
        "memory",
        "{% set ns = namespace(x=none) %}" + loop(30000, "{% set ns.x = (ns.x, messages[0].content * 5000) %}"),
    ),
    "chain of lists": Hostile(
        "memory", "{% set ns = namespace(x=none) %}" + loop(30000, "{% set ns.x = (ns.x, range(30000) | list) %}")
    ),
    "chain of letters": Hostile(
        "memory",
        "{% set ns = namespace(x=none) %}" + loop(30000, "{% set ns.x = (ns.x, (messages[0].content * 999) | list) %}"),
    ),
    "markup times a number": Hostile("memory", "{% set n = 300000000 %}{{ (('<' | escape) * n) | length }}"),
    "markup that doubles": Hostile("memory", doubled("ns.x + ns.x", "'<' | escape")),
    "markup joined": Hostile("memory", many("a", 30000, "{{ (x | escape).join(x) }}")),
    "markup replaced": Hostile("memory", many("a", 30000, "{{ (x | safe).replace('a', x) }}")),
    "markup centered": Hostile("memory", "{{ ('x' | safe).center(300000000) }}"),
    "markup by percent": Hostile("memory", "{{ ('%300000000s' | safe) % 'x' }}"),
    "markup by format": Hostile("memory", "{{ ('{:>300000000}' | safe).format('x') }}"),
    "markup translated": Hostile("memory", many("a", 30000, "{{ (x | safe).translate({97: x}) }}")),
    "own text replaced": Hostile("memory", "{% set x = messages[0].content * 3000 %}{{ x.replace('_', x) }}"),
    "own text joined": Hostile("memory", "{% set x = messages[0].content * 3000 %}{{ x.join(x) }}"),
    "own text translated": Hostile("memory", "{% set x = messages[0].content * 3000 %}{{ x.translate({95: x}) }}"),
    "own text filled": Hostile("memory", "{{ messages[0].content.ljust(300000000) }}"),
    "own text expanded": Hostile("memory", "{{ ('\t' ~ messages[0].content).expandtabs(300000000) }}"),
    "text wrapped with text": Hostile("memory", many("a ", 9000, "{{ x | wordwrap(1, wrapstring=x * 9) | length }}")),
    "percent of a dictionary": Hostile("memory", doubled("'%(a)s%(a)s' % {'a': ns.x}")),
    "format_map that doubles": Hostile("memory", doubled("'{a}{a}'.format_map({'a': ns.x})")),
    "format filter that doubles": Hostile("memory", doubled("'%s%s' | format(ns.x, ns.x)")),
    "text in a list of texts": Hostile("memory", many("a", 90000, "{{ ([x] * 90000) | string | length }}")),
    "list of constants": Hostile("memory", "{{ ([0] * 10 ** 9) | length }}"),
    "date format": Hostile("memory", many("%c", 9_000_000, "{{ strftime_now(x) | length }}")),
    "wide list printed": Hostile("memory", WIDE + "{{ b }}"),
    "wide views printed": Hostile("memory", WIDE_VALUES + "{{ b.items() }}"),
    "nested namespaces printed": Hostile(
        "memory",
        "{% set ns = namespace(x='aa') %}" + "{% set ns = namespace(x=ns, y=ns) %}" * 40 + "{{ ns }}",
        "<Namespace>",
    ),
    "wide list in an error": Hostile("memory", WIDE + "{{ raise_exception(b) }}"),
    "wide list not found": Hostile("memory", WIDE + "{{ [].index(b) }}"),
    "wide tuple not found": Hostile("memory", WIDE_TUPLE + "{{ [][u].x }}"),
    "target of links": Hostile("memory", "{{ ('http://a.bc ' * 20000) | urlize(target='x' * 4000000) | length }}"),
    "relation of links": Hostile("memory", "{{ ('http://a.bc ' * 20000) | urlize(rel='x' * 4000000) | length }}"),
    "lines that are kept": Hostile(
        "memory",
        many("ab\n", 1000000, "".join("{% set a" + str(n) + " = x.splitlines() %}" for n in range(40)) + "{{ a1[0] }}"),
    ),
    "lists of letters": Hostile("memory", "{% set n = 4000000 %}{{ (['é' * n] * 60) | map('list') | list | length }}"),
    "batches of letters": Hostile("memory", many("😀", 4000000, "{{ x | batch(1) | list | length }}")),
    "items of a dictionary": Hostile(
        "memory", "{{ ([dict.fromkeys(range(99999))] * 100) | map('items') | map('list') | list | length }}"
    ),
    "lists that are added": Hostile(
        "memory",
        "{% set l = [0] * 1000000 %}{% set ns = namespace(x=none) %}" + loop(9999, "{% set ns.x = (ns.x, l + [i]) %}"),
    ),
    "tuples that are cut": Hostile(
        "memory",
        "{% set l = (0,) * 1000000 %}{% set ns = namespace(x=none) %}" + loop(9999, "{% set ns.x = (ns.x, l[i:]) %}"),
    ),
    "lists that are reversed": Hostile(
        "memory",
        "{% set l = [0] * 1000000 %}{% set ns = namespace(x=none) %}"
        + loop(9999, "{% set ns.x = (ns.x, l | reverse | list) %}"),
    ),
    "dictionaries that are kept": Hostile(
        "memory",
        "{% set ns = namespace(x=none) %}" + loop(9999, "{% set ns.x = (ns.x, dict.fromkeys(range(99999))) %}"),
    ),
    "own error": Hostile("memory", "{{ raise_exception('a' * 10 ** 10) }}"),
}

CRASHES = {
    "macro without end": Hostile("crash", "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"),
    "loop without end": Hostile("crash", "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}"),
    "parentheses": Hostile("crash", "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}"),
    "brackets": Hostile("crash", "{{ " + "[" * 3000 + "]" * 3000 + " }}"),
    "not not not": Hostile("crash", "{{ " + "not " * 5000 + "1 }}"),
    "long sum": Hostile("crash", "{{ n" + " + n" * 3000 + " }}"),
    "attributes": Hostile("crash", "{{ messages" + ".x" * 5000 + " }}"),
    "filters": Hostile("crash", "{{ 'x'" + " | upper" * 5000 + " }}"),
    "nested ifs": Hostile("crash", "{% if x %}" * 200 + "{% endif %}" * 200),
    "nested fors": Hostile("crash", "{% for i in [1] %}" * 30 + "{% endfor %}" * 30),
    "deep list printed": Hostile("crash", doubled("[ns.x]", "[]", "{{ ns.x }}", 9999)),
    "deep list as JSON": Hostile("crash", doubled("[ns.x]", "[]", "{{ ns.x | tojson }}", 9999)),
    "deep list compared": Hostile(
        "crash",
        "{% set a = namespace(x=[]) %}{% set b = namespace(x=[]) %}"
        + loop(9999, "{% set a.x = [a.x] %}{% set b.x = [b.x] %}", "{{ a.x == b.x }}"),
    ),
    "long number": Hostile("crash", "{{ 10 ** 5000 }}"),
    "division by zero": Hostile("crash", "{{ 1 / 0 }}"),
    "text and number": Hostile("crash", "{{ 'a' + 1 }}"),
    "missing key": Hostile("crash", "{{ '{x}'.format() }}"),
    "call of a text": Hostile("crash", "{{ messages[0].content() }}"),
    "long own error": Hostile("nothing", "{{ raise_exception('a' * 90000) }}"),
    "syntax error": Hostile("nothing", "{% if %}"),
    "unknown filter": Hostile("nothing", "{{ 'x' | nothing }}"),
    "unknown test": Hostile("nothing", "{{ 'x' is nothing }}"),
    "unknown tag": Hostile("nothing", "{% nothing %}"),
}

GROUPS = {"escape": ESCAPES, "change": CHANGES, "time": TIME, "memory": MEMORY, "crash": CRASHES}
ALL: dict[str, Hostile] = {f"{group}: {name}": case for group, cases in GROUPS.items() for name, case in cases.items()}

MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "{0.__globals__[SECRET]}"},
    {"role": "assistant", "content": "{f.__globals__[SECRET]}"},
    {"role": "user", "content": "%1000000000d"},
    {"role": "assistant", "content": "Bye", "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1]}}}]},
]
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]

Render = Callable[[str, list[dict[str, Any]], list[dict[str, Any]]], str]


class InvalidTemplateError(Exception):
    """A template that is refused before it is rendered."""


def compiled(source: str) -> Any:
    from sftcore.labelling.rendering.renderer import ChatTemplate

    try:
        return ChatTemplate(source)
    except ValueError as error:
        raise InvalidTemplateError(str(error)) from error


def rendered(source: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    return str(compiled(source).render(messages, tools, True))


def traced(source: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    """Render as labelling does, which gives the template strings of another type."""
    return str(compiled(source).trace(messages, tools, True).text)


def raise_exception(message: str) -> None:
    raise ValueError(message)


def strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def to_json(value: Any, **options: Any) -> str:
    return json.dumps(value, **options)


def unprotected(source: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    """Render as anybody would who never thought of harm."""
    import jinja2

    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
        loader=jinja2.FileSystemLoader([".", "/"]),
    )
    environment.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)
    environment.filters["tojson"] = to_json
    return environment.from_string(source).render(messages=messages, tools=tools, add_generation_prompt=True)


RENDERERS: dict[str, Render] = {"rendered": rendered, "traced": traced, "unprotected": unprotected}

# The processes ------------------------------------------------------------------------------------------------------


class Limits(NamedTuple):
    """What a process may take before it is ended: bytes more than at its start, and seconds of CPU."""

    memory: int
    cpu: float


LIMITS = {
    "rendered": Limits(2**31, 3),
    "traced": Limits(2**31, 3),
    "unprotected": Limits(2**28, 2 if os.environ.get("SFTCORE_TESTS") == "thorough" else 0.3),
}
WALL_LIMIT = 60
TOUCHES = (
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.mkdir", "os.rmdir", "os.remove", "os.rename"),
    *("os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate", "os.putenv", "os.kill", "os.chdir"),
    *("subprocess.", "socket.", "shutil.", "ctypes.", "tempfile."),
)
"""Audit events of what no template may cause; opening a file that is not Python source is another
(Python looks for the line of a syntax error in a file of the template's name, ``<template>``)."""


def watch() -> Callable[[], list[str]]:
    """Note every touch of the outer world from now on, in this process and those that are forked from it.

    The module that tries a template in a forked process may do so, and read how much memory this one has.

    Returns:
        What reads the touches so far.
    """
    reading, writing = os.pipe()
    os.set_blocking(reading, False)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        code = event == "open" and str(args[0]).endswith((".py", ".pyc", "<template>")) and args[1] in ("r", "rb")
        if event.startswith(TOUCHES) or (event == "open" and not code):
            caller = Path(sys._getframe(1).f_code.co_filename)
            allowed = event == "os.fork" or args[:1] == ("/proc/self/statm",)
            if not (allowed and caller.parts[-2:] == ("rendering", "limits.py")):
                os.write(writing, f"{event} {args!r}"[:200].replace("\n", " ").encode() + b"\n")

    def touches() -> list[str]:
        with suppress(BlockingIOError):
            return os.read(reading, 1 << 16).decode().splitlines()
        return []

    sys.addaudithook(hook)
    return touches


def status(field: str) -> int:
    """Return a size of this process in bytes, as /proc tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def chain(error: BaseException | None) -> list[str]:
    """Return the names of an error and of those it came from."""
    names: list[str] = []
    while error is not None and len(names) < 20:
        names.append(type(error).__name__)
        error = error.__cause__ or error.__context__
    return names


def attempt(renderer: str, case: Hostile) -> dict[str, Any]:
    """Render in this process, and tell what came of it."""
    Path("secret.txt").write_text(SECRET)
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + LIMITS[renderer].memory,) * 2)
    limit = time.process_time() + LIMITS[renderer].cpu
    resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 2))  # of whole seconds
    if renderer == "unprotected":  # ours may want the alarm for itself
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, LIMITS[renderer].cpu)
    messages, tools = copy.deepcopy(MESSAGES), copy.deepcopy(TOOLS)
    result: dict[str, Any] = {"error": [], "told": "", "output": None}
    before, began = status("VmRSS"), time.process_time()
    touched = watch()
    touches: list[str] = []
    try:
        output = RENDERERS[renderer](case.source, messages, tools)
        touches = touched()
        result.update(output=output[:1000], leak=SECRET in output)
    except BaseException as error:
        touches = touched()
        try:
            told = str(error)
        except Exception:
            told = ""
        result.update(error=chain(error), told=told[:300], told_length=len(told), leak=SECRET in told)
    result.update(
        cpu=time.process_time() - began,
        grown=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before,
        touches=touches,
        changed=(messages, tools) != (MESSAGES, TOOLS),
        files=sorted(path.name for path in Path().iterdir() if path.name != "secret.txt"),
    )
    return result


def start(renderer: str, case: Hostile, folder: str) -> tuple[int, int]:
    """Fork a process for *case*, in a new folder in *folder*; return its id, and where its result can be read."""
    reading, writing = os.pipe()
    if pid := os.fork():
        os.close(writing)
        return pid, reading
    try:
        os.chdir(tempfile.mkdtemp(dir=folder))
        os.write(writing, json.dumps(attempt(renderer, case)).encode())
    finally:
        os._exit(0)


def run_all(renderer: str, names: Sequence[str], folder: str) -> dict[str, dict[str, Any]]:
    """Render each template in a process of its own, a few at a time."""
    RENDERERS[renderer]("{{ messages[0].content | trim }}", MESSAGES, TOOLS)  # so that each finds its imports done
    waiting, running, results = list(names), dict[int, tuple[str, int, float]](), dict[str, dict[str, Any]]()
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            name = waiting.pop(0)
            pid, reading = start(renderer, ALL[name], folder)
            running[pid] = name, reading, time.monotonic() + WALL_LIMIT
        for pid, (name, reading, deadline) in list(running.items()):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            ended, code = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            with os.fdopen(reading, "rb") as pipe:
                data = pipe.read()
            killed = signal.Signals(os.WTERMSIG(code)).name if os.WIFSIGNALED(code) else ""
            results[name] = json.loads(data) if data else {"killed": killed or "silently"}
            del running[pid]
        time.sleep(0.005)
    return results


def main() -> None:
    renderer, *names = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run_all(renderer, names or list(ALL), folder)))


if __name__ == "__main__":
    main()
