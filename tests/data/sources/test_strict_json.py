"""A line that is decoded decode_fast says what the strict decoder says, or fails in its words."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sftcore.core.json_text import STRICT
from sftcore.data.sources.strict_json import (
    CONTAINERS,
    MAX_DEPTH,
    UNSURE,
    _depth,
    decode,
    decode_fast,
    loads,
    reason_of,
)

from ...sizes import examples

needs_orjson = pytest.mark.skipif(loads is None, reason="orjson is not installed")

PIECES = ["a", "b", ":", ",", "1.5", "{", "]", " ", "é", "你", "👋🏽", "\x7f", "/", "'", "NaN"]
ESCAPES = [r"\"", r"\\", r"\/", r"\n", r"\u0022", r"\u005c", r"\u00e9", r"\u0000", r"\ud83d\ude00", r"\ud83d", r"\x"]
NUMBERS = ["0", "-0", "-0.0", "1.0", "1E2", "1e400", "-1e-400", "01", "1.", "9007199254740993", "0.1e1"]
BIG = [str(2**63), str(-(2**63) - 1), str(2**64 - 1), str(2**64), "9" * 5000]
WORDS = ["true", "false", "null", "NaN", "Infinity", "-Infinity", "nul", ""]
DAMAGE = [b"", b'"', b"\\", b":", b",", b"\xff", b"\xed\xa0\x80", b"\0", b"\n", b" ", b"}", b"[", b"\xef\xbb\xbf"]

space = st.sampled_from(["", "", " ", "\t", "\n", "\r "])
string = st.lists(st.sampled_from(PIECES + ESCAPES), max_size=4).map(lambda parts: f'"{"".join(parts)}"')
sound = st.lists(st.sampled_from(PIECES + ESCAPES[:-2]), max_size=4).map(lambda parts: f'"{"".join(parts)}"')
scalar = st.one_of(sound, sound, sound, st.integers().map(str), st.sampled_from(NUMBERS + BIG + WORDS), string)


def spaced(parts, gap):
    return gap + gap.join(parts) + gap


def array(items):
    return st.builds(lambda items, gap: f"[{spaced([','], gap).join(items)}]", st.lists(items, max_size=3), space)


def table(items):
    key = st.one_of(st.sampled_from(['"a"', '"b"', r'"\""', r'"\\"', r'"\u0061"', '":"']), sound)
    pair = st.builds(lambda key, gap, item: spaced([key, ":", item], gap), key, space, items)
    return st.lists(pair, max_size=3).map(lambda pairs: f"{{{','.join(pairs)}}}")


texts = st.recursive(scalar, lambda items: array(items) | table(items), max_leaves=8)


@st.composite
def lines(draw):
    """Return the bytes of a text, which may be damaged in one place."""
    line = draw(texts).encode()
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(line)))
        line = line[:at] + draw(st.sampled_from(DAMAGE)) + line[at + draw(st.integers(0, 2)) :]
    return line


def outcome(read, line):
    """The value of *line*, with all types and the order of keys, or why it cannot be read."""
    try:
        return repr(read(line))
    except (ValueError, RecursionError) as error:
        return reason_of(error)


def strictly(line):
    return STRICT.decode(line.decode())


@examples(1500)
@given(lines())
@example(rb'{"a": 1, "a": ["\"\""]}')
@example(rb'{"a": "\\", "a": "\\", "b": "\\", "c": "\\"}')
@example(rb'{"a": {"b": "c", "b": 1}}')
@example(b"123456789012345678901234567890")
@example(b"-0")
@example(b'"\xed\xa0\x80"')
@example(rb'"\ud800"')
@example(b"\xef\xbb\xbf{}")
@example(b'{"a": 1e400}')
def test_as_the_strict_decoder(line):
    assert outcome(decode, line) == outcome(strictly, line)


@pytest.mark.parametrize("depth", [10, 100, 400, 600, 900, 1000, 1020, 1030, 100_000])
@pytest.mark.parametrize(("begin", "end"), [(b"[", b"]"), (b'{"a":', b"}")], ids=["lists", "objects"])
def test_however_deeply_it_is_nested(depth, begin, end):
    line = begin * depth + b"1" + end * depth
    right = outcome(strictly, line) if depth <= MAX_DEPTH else "not valid JSON: nested too deeply"
    assert outcome(decode, line) == right


@pytest.mark.parametrize(("said", "depth"), [(b'"[[["', 0), (b'["\\"[", {"]": [1]}, []]', 3), (b"[[]", 2)])
def test_brackets_in_texts_do_not_count(said, depth):
    assert _depth(said) == depth


@needs_orjson
@pytest.mark.parametrize(
    "line",
    [
        b'{"messages": [{"role": "user", "content": "a: b"}], "n": 1, "x": null, "y": true}',
        rb'{"messages":[{"role":"user","content":"say \"a\": or \"b\"\n"}]}',
        json.dumps({"a": ["\\n", "é", '"']}).encode(),
        b' { "a" : [ ] , "b" : { } } ',
        b'"a"',
        b"[" * (CONTAINERS - 1) + b"]" * (CONTAINERS - 1),
    ],
)
def test_ordinary_lines_are_decoded_by_orjson(line):
    assert decode_fast(line) == strictly(line)


@needs_orjson
@pytest.mark.parametrize("line", [b'{"a": 1.5}', b'{"a": "", "a": ""}', b"[" * CONTAINERS + b"]" * CONTAINERS, b"{"])
def test_others_are_not(line):
    assert decode_fast(line) is UNSURE
