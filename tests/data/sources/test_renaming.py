"""Columns under other names, and names that no row has."""

from __future__ import annotations

import copy
import json

import pytest
import yaml
from transformers import AutoTokenizer

from sftcore import ConfigError, RowError
from sftcore.config.document import Document
from sftcore.config.loader import load_config
from sftcore.config.schema import SourceConfig
from sftcore.core.errors import DataError
from sftcore.core.registry import Registry
from sftcore.data import prepare, sample_sources
from sftcore.data.row_types import Origin
from sftcore.data.sources.formats import _sampled, detect_format
from sftcore.data.sources.renaming import MOST, missing_names, rename
from sftcore.labelling import Labeller

AB = SourceConfig("f", columns={"a": "b"})
REGISTRY = Registry.discover()


@pytest.mark.parametrize(
    ("names", "row", "renamed"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": "b"}, {"a": 1, "c": 2}, {"b": 1, "c": 2}),
        ({"a": "b", "b": "a"}, {"a": 1, "b": 2}, {"b": 1, "a": 2}),
        ({"a": "b", "b": "c"}, {"a": 1, "b": 2}, {"b": 1, "c": 2}),
        ({"a": "b"}, {"b": 1}, {"b": 1}),
        ({"a": "b"}, {"a": {"a": 1}}, {"b": {"a": 1}}),
    ],
)
def test_top_level_keys_are_renamed_all_at_once(names, row, renamed):
    before = dict(row)
    assert rename(row, SourceConfig("f", columns=names), {}) == renamed
    assert row == before


def test_no_column_hides_another():
    with pytest.raises(RowError, match="renames a column to 'b', and the row has one of that name"):
        rename({"a": 1, "b": 2}, AB, {})
    rows = iter([(Origin("f", 1), {"a": 1, "b": 2}), (Origin("f", 2), 3)])
    assert [row for _, row in _sampled(rows, AB, {})] == [{"a": 1, "b": 2}, 3]


def test_a_column_that_some_row_has_is_not_missing():
    source = SourceConfig("f", columns={"a": "b", "x": "y"})
    seen = {}
    assert missing_names(source, seen) == []  # no row was seen
    for row in ({"c": 1}, {"a": 1}, {"d": 1}):
        rename(row, source, seen)
    assert missing_names(source, seen) == [("columns", "x", "c, a, d")]
    rename({"x": 1}, source, seen)
    assert missing_names(source, seen) == []


def test_of_many_columns_the_first_are_reported():
    seen = {}
    source = SourceConfig("f", columns={"x": "y"})
    rename({str(number): 1 for number in range(25)}, source, seen)
    assert missing_names(source, seen) == [("columns", "x", ", ".join(map(str, range(20))) + " and 5 more")]


TALK = [{"who": "Kunde", "text": "q"}, {"who": "Agent", "text": "a"}]
NAMES = {"message_keys": {"who": "role", "text": "content"}, "roles": {"Kunde": "user", "Agent": "assistant"}}
MEANT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize("value", [TALK, json.dumps(TALK)])
def test_names_in_messages(value):
    before = copy.deepcopy(value)
    row = {"messages": value, "tools": [{"who": "f"}], "n": [1], "text": "["}
    assert rename(row, SourceConfig("f", **NAMES), {}) == {**row, "messages": MEANT}
    assert value == before


def test_a_name_in_messages_that_no_row_has_is_missing():
    source = SourceConfig("f", message_keys={"who": "role", "said": "content"}, roles={"Kunde": "user", "Bot": "tool"})
    seen = {}
    rename({"messages": TALK}, source, seen)
    assert missing_names(source, seen) == [
        ("message_keys", "said", "who, text"),
        ("roles", "Bot", "Kunde, Agent"),
    ]
    many = [{"role": str(number)} for number in range(MOST * 2)]
    rename({"messages": [*many, {"role": "Bot", "said": "x"}]}, source, seen)
    assert missing_names(source, seen) == []
    assert len(seen) <= MOST + 4


def test_no_key_of_a_message_hides_another():
    with pytest.raises(RowError, match="'message_keys' renames a key to 'role', and a message has one of that name"):
        rename({"messages": [{"who": "x", "role": "y"}]}, SourceConfig("f", message_keys={"who": "role"}), {})


ROWS = [{"prompt": f"Is {number}?", "completion": "yes", "output": "other", "n": number} for number in range(60)]
MAIN = "model: {name_or_path: x}\nmethod: full\n"


@pytest.fixture(scope="module")
def labeller(smollm2):
    return Labeller(AutoTokenizer.from_pretrained(smollm2), ["<|im_end|>"])


def written(folder, text, rows=ROWS):
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "c.yaml").write_text(MAIN + text)
    return load_config(Document.load(folder / "c.yaml"), REGISTRY, {})


def prepared(folder, labeller, text, rows=ROWS):
    return prepare(written(folder, text, rows), REGISTRY, labeller)


@pytest.mark.parametrize("form", ["auto", "qa"])
def test_any_names_fit_a_format(tmp_path, form):
    columns = "{prompt: input, completion: output, output: n, n: m}"
    made = written(tmp_path, f"data: {{train: {{path: t.jsonl, format: {form}, columns: {columns}}}}}")
    [source] = sample_sources(made.config.data.train, ("data", "train"), made, REGISTRY)
    texts = [[message.content for message in row.conversation.messages] for row in source.rows]
    assert texts == [[row["prompt"], "yes"] for row in ROWS]


def test_a_row_that_has_the_new_name_already_is_bad(tmp_path, labeller):
    with pytest.raises(DataError, match=r"t.jsonl:1: 'columns' renames a column to 'output', and the row has one"):
        prepared(
            tmp_path,
            labeller,
            "data: {train: {path: t.jsonl, format: qa, columns: {prompt: input, completion: output}}}",
        )


ONE = "data:\n  train:\n    path: t.jsonl\n    format: {}\n    columns:\n      prompt: input\n      complete: output\n"
LIST = "data:\n  train:\n  - path: t.jsonl\n    format: {}\n    columns:\n      prompt: input\n      complete: output\n"


@pytest.mark.parametrize("form", ["auto", "qa", "messages"])
@pytest.mark.parametrize(("text", "place"), [(ONE, "data.train"), (LIST, "data.train.0")])
def test_a_column_that_no_row_has_is_reported_with_its_line(tmp_path, labeller, text, place, form):
    with pytest.raises(ConfigError) as raised:
        prepared(tmp_path, labeller, text.format(form))
    told = f"c.yaml:9: {place}.columns.complete: no row of t.jsonl has this column; there are: prompt, completion, "
    assert told in str(raised.value)


def test_a_misspelled_column_is_reported_where_it_leaves_no_format_to_fit(tmp_path, labeller):
    with pytest.raises(ConfigError, match=r"c.yaml:3: data.train.columns.promt: no row of t.jsonl has this column"):
        prepared(tmp_path, labeller, "data: {train: {path: t.jsonl, columns: {promt: input}}}")


def test_of_evaluation_too(tmp_path, labeller):
    text = "data:\n  train: {path: t.jsonl, columns: {prompt: input}}\n  eval: {path: t.jsonl, columns: {x: y}}\n"
    rows = [{key: value for key, value in row.items() if key != "completion"} for row in ROWS]
    with pytest.raises(ConfigError, match=r"c.yaml:5: data.eval.columns.x: no row of t.jsonl has this column"):
        prepared(tmp_path, labeller, text, rows)


def test_a_column_may_come_late(tmp_path, labeller):
    rows = [*({"prompt": "q", "output": str(number)} for number in range(60)), {"prompt": "q", "answer": "z"}]
    text = "data: {train: {path: t.jsonl, columns: {prompt: input, answer: output}}}"
    assert len(prepared(tmp_path, labeller, text, rows).train) == 61


def test_names_in_messages_from_the_configuration_to_the_tokens(tmp_path, labeller):
    names = "message_keys: {who: role, text: content}, roles: {Kunde: user, Agent: assistant}"
    rows = [{"messages": TALK}, {"messages": json.dumps(TALK)}]
    made = prepared(tmp_path, labeller, f"data: {{train: {{path: t.jsonl, {names}}}}}", rows)
    assert [labeller.tokenizer.decode([token for token in example.labels if token >= 0]) for example in made.train] == [
        "a<|im_end|>",
        "a<|im_end|>",
    ]
    for options, problem in (
        ("message_keys: {who: role, Text: content}", "message_keys.Text: no row of t.jsonl has this key of a message"),
        (f"{names[:-1]}, X: tool}}", "roles.X: no row of t.jsonl has this role; there are: Kunde, Agent"),
        ("roles: {Kunde: usr}", "roles.Kunde: should be 'system', 'user', 'assistant', 'tool' or 'tool_call', got"),
        ("message_keys: {a: role, b: role}", "message_keys: would rename both 'a' and 'b' to 'role'"),
    ):
        with pytest.raises(ConfigError, match=f"data.train.{problem}"):
            prepared(tmp_path, labeller, f"data: {{train: {{path: t.jsonl, {options}}}}}", rows)
    with pytest.raises(ConfigError, match=r"data.train.message_keys.who: no row .* key of a message; .*: not one"):
        prepared(tmp_path, labeller, "data: {train: {path: t.jsonl, message_keys: {who: role}}}", ROWS)


@pytest.mark.parametrize(
    ("columns", "proposed"),
    [
        ("request, reply", "{request: instruction, reply: output}"),
        ("Question, Answer", "{Question: instruction, Answer: output}"),
        ("question, context, answer", "{question: instruction, answer: output, context: input}"),
        ("input, context, output", "{input: instruction, context: input}"),
        ("prompt, chosen, rejected", "{prompt: instruction, chosen: output}"),
        ("my prompt, prompt , Completion", '{"prompt ": instruction, Completion: output}'),
        ("dialogue, id", "{dialogue: messages}"),
        ("Body, title", "{Body: text}"),
        ("question, choices, answer", None),
        ("x, y", None),
    ],
)
def test_columns_are_proposed(columns, proposed):
    row = dict.fromkeys(columns.split(", "), "x")
    with pytest.raises(DataError) as raised:
        detect_format("f", [(Origin("f", 1), row)], REGISTRY)
    last = str(raised.value).splitlines()[-1]
    assert last.startswith("  'columns' of the source renames its columns")
    assert (f"such as columns: {proposed} for the format" in last) == (proposed is not None)
    if proposed:
        names = yaml.safe_load(proposed)
        assert detect_format("f", [(Origin("f", 1), {names.get(key, key): 1 for key in row})], REGISTRY)
    else:
        assert "such as" not in last


@pytest.mark.parametrize("row", [{"role": "user", "content": "q"}, {"from": "human", "value": "q", "id": 1}])
def test_rows_that_are_messages(row):
    with pytest.raises(DataError, match=r"each row is one message, .* jq -sc '\{messages: \.\}'"):
        detect_format("f", [(Origin("f", 1), row)], REGISTRY)
