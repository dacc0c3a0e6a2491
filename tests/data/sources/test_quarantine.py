"""Nothing vanishes: each row that was read is trained, evaluated, dropped or in quarantine, and all are counted."""

from __future__ import annotations

import json
import os
import random
import re

import pytest
from transformers import AutoTokenizer

from sftcore.core.errors import DataError
from sftcore.data import prepare
from sftcore.data.preparation import blocks
from sftcore.data.preparation.source_cache import Cache
from sftcore.data.sources.rejected import write_quarantine
from sftcore.labelling import Labeller

from ..making import REGISTRY, loaded, write


@pytest.fixture(scope="module")
def labeller(smollm2):
    return Labeller(AutoTokenizer.from_pretrained(smollm2), ["<|im_end|>"])


def good(number, question="What is {}?"):
    return {"messages": [{"role": "user", "content": question.format(number)}, {"role": "assistant", "content": "It."}]}


def user(**fields):
    return {"messages": [{"role": "user", "content": "q", **fields}, {"role": "assistant", "content": "a"}]}


def text(row):
    return json.dumps(row).encode()


NESTED = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": '
NESTED += b'[{"name": "f", "arguments": {"a": %s}}]}]}'
TOOLS = b'{"tools": %s, ' + text(user())[1:]

BROKEN = {
    "truncated": (text(user())[:-20], "not valid JSON: Unterminated string"),
    "single quotes": (b"{'messages': []}", "not valid JSON: Expecting property name"),
    "trailing comma": (b'{"messages": [],}', "not valid JSON: "),
    "two objects": (text(user()) * 2, "not valid JSON: Extra data"),
    "no JSON": (b"user: hi, assistant: hello", "not valid JSON: Expecting value"),
    "a byte that is not UTF-8": (text(user()).replace(b"q", b"\xff"), "not valid UTF-8: invalid start byte"),
    "half of a UTF-8 character": (text(user()).replace(b"q", b"\xe4\xbd"), "not valid UTF-8: invalid continuation"),
    "a surrogate in UTF-8": (text(user()).replace(b"q", b"\xed\xa0\xbd"), "not valid UTF-8"),
    "a lone surrogate": (text(user(content="a\ud83d")), r"the text has the lone surrogate '\\ud83d'"),
    "deep": (b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not valid JSON: nested too deeply"),
    "rather deep": (NESTED % (b'{"b":' * 200 + b"1" + b"}" * 200), "is nested more than 100 levels deep"),
    "deep tools": (TOOLS % json.dumps("[" * 5000 + "]" * 5000).encode(), "nested too deeply"),
    "a duplicate key": (text(user()).replace(b'"q"', b'"q", "role": "user"'), "the key 'role' appears twice"),
    "NaN": (text(user(weight=float("nan"))), "not valid JSON: NaN is not a number in JSON"),
    "Infinity": (text(user(weight=float("inf"))), "not valid JSON: Infinity is not a number in JSON"),
    "a number too large": (text(user()).replace(b'"q"', b'"q", "weight": 1e999'), "1e999 is not a number in JSON"),
    "a byte order mark": (b"\xef\xbb\xbf" + text(user()), "not valid JSON: "),
    "a list": (text([user()]), "expected one JSON object, not a list"),
    "a string": (b'"hello"', "expected one JSON object, not a string"),
    "null": (b"null", "expected one JSON object, not null"),
    "no messages": (text({"mesages": []}), "the key 'messages' is missing"),
    "messages are text": (text({"messages": "hi"}), "'messages' must be a list, not a string"),
    "a null among messages": (text({"messages": [None]}), "message 1 of 'messages' must be an object, not null"),
    "content is null": (text(user(content=None)), "'content' must be a string, not null"),
    "content is a number": (text(user(content=3)), "'content' must be a string, not a number"),
    "a number as text": (text(user(weight="0.5")), "'weight' must be a finite number of at least 0, not a string"),
    "an unknown role": (text(user(role="usr")), "unknown role 'usr'"),
    "10 MB": (b'{"' + b"x" * 10_000_000 + b'": 1}', r"the key 'messages' is missing \(found: x+\.\.\. \(10,000,0"),
    "binary": (bytes(range(11, 256)), "not valid UTF-8"),
}
"""Rows that are broken, and why."""


def test_there_are_enough_ways_to_break_a_row():
    assert len(BROKEN) >= 25


@pytest.fixture(scope="module")
def mixture():
    """Lines of 1,000 good rows and 1,000 broken ones, and for each line its number or the way in which it is broken."""
    chance = random.Random(0)
    large = ["10 MB", "deep"]  # take long to read, so they come once
    ways = [way for way in BROKEN if way not in large]
    what = [*range(1000), *(ways * 50)[:998], *large]
    chance.shuffle(what)
    lines = []
    for item in what:
        end = chance.choice([b"\n", b"\n", b"\r\n", b"\n\n", b"\n \t\n"])
        lines.append((text(good(item)) if isinstance(item, int) else BROKEN[item][0]) + end)
    return b"".join(lines), what


@pytest.mark.parametrize(("form", "in_a_block"), [("messages", blocks.ROWS), ("auto", 100)])
def test_quarantine_of_a_thousand_broken_rows_among_a_thousand_good_ones(
    tmp_path, labeller, mixture, monkeypatch, form, in_a_block
):
    monkeypatch.setattr(blocks, "ROWS", in_a_block)
    content, what = mixture
    (tmp_path / "t.jsonl").write_bytes(content)
    made = loaded({"path": str(tmp_path / "t.jsonl"), "format": form}, max_bad_rows=1000, eval={"fraction": 0.1})
    prepared = prepare(made, REGISTRY, labeller, cache=Cache(tmp_path / "cache"))
    at = {}  # the line of each row: some are empty
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            at[number] = what[len(at)]
    assert len(at) == 2000

    lines_of_good = [line for line, item in at.items() if isinstance(item, int)]
    kept = [example.origins[0].line for example in [*prepared.train, *prepared.eval]]
    assert sorted(kept) == lines_of_good
    became = prepared.account
    assert (became.read, became.trained, became.evaluated) == (2000, 900, 100)
    assert sum(became.rejected.values()) == 1000
    assert became.dropped == {}

    path, number = write_quarantine(tmp_path, prepared.rejected())
    found = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert len(found) == number == 1000
    raw = content.split(b"\n")
    for refused in found:
        file, _, line = refused["source"].rpartition(":")
        way = at.pop(int(line))
        assert file == str(tmp_path / "t.jsonl")
        assert re.search(BROKEN[way][1], refused["reason"]), (way, refused["reason"])
        as_read = raw[int(line) - 1].removesuffix(b"\r")
        if "raw" in refused:
            assert refused["raw"].encode() == as_read.decode(errors="backslashreplace").encode()
        else:
            assert json.dumps(refused["row"]) == json.dumps(json.loads(as_read))
    assert sorted(at) == lines_of_good


@pytest.mark.parametrize("in_a_block", [pytest.param(blocks.ROWS, marks=pytest.mark.slow), 100])
@pytest.mark.parametrize("most", [999, 0.4999])
def test_one_bad_row_too_many(tmp_path, labeller, mixture, monkeypatch, most, in_a_block):
    monkeypatch.setattr(blocks, "ROWS", in_a_block)
    (tmp_path / "t.jsonl").write_bytes(mixture[0])
    made = loaded({"path": str(tmp_path / "t.jsonl"), "format": "messages"}, max_bad_rows=most)
    with pytest.raises(DataError) as raised:
        prepare(made, REGISTRY, labeller, cache=Cache(tmp_path / "cache"))
    head, *lines = str(raised.value).splitlines()
    assert head == "1,000 rows cannot be used; fix or remove:"
    assert lines[10] == "  ... and 990 more"
    assert all(len(line) < 700 for line in lines)
    assert sum(int(line.split()[0].replace(",", "")) for line in lines[11:-1]) == 1000


def test_each_row_is_accounted_for(tmp_path, labeller):
    """Rows of all fates: bad, not labelled, too long, without a trained token, evaluated too, not drawn."""
    refused = {"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "\ud83d"}]}
    call = {"name": "f", "arguments": {}}
    rows = [
        *(good(number) for number in range(20)),
        {"messages": [*good(0)["messages"], {"role": "assistant", "content": "", "tool_calls": [call]}]},
        refused,
        {"messages": good(0)["messages"][:1]},
        good("long " * 99),
        *(good(number, "Eval {}") for number in range(5)),
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "e.jsonl").write_text("\n".join(json.dumps(good(number, "Eval {}")) for number in range(6)) + "\n{")
    (tmp_path / "u.csv").write_text("input,output\na,b\nc\nd,e\n")
    sources = [str(tmp_path / "t.jsonl"), {"path": str(tmp_path / "u.csv"), "repeat": 0.5}]
    made = loaded(sources, eval=str(tmp_path / "e.jsonl"), max_bad_rows=3, max_length=64)
    prepared = prepare(made, REGISTRY, labeller)
    assert prepared.account.read == len(rows) + 7 + 3
    assert (prepared.account.trained, prepared.account.evaluated) == (21, 6)
    assert prepared.account.dropped == {
        "also in data.eval": 5,
        "not sampled": 1,
        "too long": 1,
        "without a trained token": 1,
    }
    path, number = write_quarantine(tmp_path, prepared.rejected())
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert number == sum(prepared.account.rejected.values()) == len(found)
    assert [line["source"].rpartition("/")[2] for line in found] == ["t.jsonl:21", "t.jsonl:22", "u.csv:3", "e.jsonl:7"]
    assert [line.get("row", line.get("raw")) for line in found] == [rows[20], refused, ["c"], "{"]
    assert "prints nothing of what the assistant wrote" in found[0]["reason"] or "tool call" in found[0]["reason"]


def test_no_quarantine_file_without_rejected_rows(tmp_path):
    assert write_quarantine(tmp_path, []) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["é 'a' \"b\".jsonl", os.fsdecode(b"\xff.jsonl")])
def test_a_file_may_have_any_name(tmp_path, labeller, name):
    path = write(tmp_path / name, [good(1), "{"])
    prepared = prepare(loaded(path, max_bad_rows=1), REGISTRY, labeller)
    path, _ = write_quarantine(tmp_path, prepared.rejected())
    assert [json.loads(line)["source"] for line in path.read_text().splitlines()] == [f"{tmp_path}/{name}:2"]


def test_all_rows_are_bad(tmp_path, labeller):
    (tmp_path / "t.jsonl").write_text("{,\n{\n")
    made = loaded({"path": str(tmp_path / "t.jsonl"), "format": "qa"}, max_bad_rows=9)
    with pytest.raises(DataError, match=r"^2 rows cannot be used; fix or remove:\n  .*t.jsonl:1: not valid JSON"):
        prepare(made, REGISTRY, labeller)
