"""Small files in as many layouts as other people's data has: each is labelled, or one message says what to do."""

from __future__ import annotations

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from sftcore.core.errors import SftError
from sftcore.data import prepare

from ..making import REGISTRY, loaded, make_labeller

ASKED, ANSWER = "Which river runs through Cologne?", "The Rhine."
TURNS = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWER}]
SHARED = [{"from": "human", "value": ASKED}, {"from": "gpt", "value": ANSWER}]
TEXT = f"{ASKED} {ANSWER}"
MARKED = [ANSWER + "</s>"] * 2
WHOLE = [TEXT + "</s>"] * 2


def lines(*rows):
    return "\n".join(map(json.dumps, rows * 2 if len(rows) == 1 else rows))


def named(user, assistant):
    return {"messages": [{**turn, "role": role} for turn, role in zip(TURNS, (user, assistant), strict=True)]}


def parquet(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def saved(path, splits=None):
    import datasets

    made = datasets.Dataset.from_list([{"messages": TURNS}] * 2)
    (datasets.DatasetDict(dict.fromkeys(splits, made)) if splits else made).save_to_disk(path)


CSV = f"prompt,completion\n{ASKED},{ANSWER}\n{ASKED},{ANSWER}\n"
JSON_TEXT = json.dumps(TURNS).replace('"', '""')
PYTHON_TEXT = str(TURNS).replace('"', '""')

# name of the file, its content, options of the source, and the texts that are trained
LABELLED = {
    "messages": ("t.jsonl", lines({"messages": TURNS}), {}, MARKED),
    "a list": ("t.json", json.dumps([{"messages": TURNS}] * 2), {}, MARKED),
    "a list over lines": ("t.json", json.dumps([{"messages": TURNS}] * 2, indent=2), {}, MARKED),
    "lines named json": ("t.json", lines({"messages": TURNS}), {}, MARKED),
    "ndjson": ("t.ndjson", lines({"messages": TURNS}), {}, MARKED),
    "upper case": ("T.JSONL", lines({"messages": TURNS}), {}, MARKED),
    "upper case, compressed": ("T.Json.GZ", gzip.compress(lines({"messages": TURNS}).encode()), {}, MARKED),
    "a mark at the start": ("t.jsonl", "\ufeff" + lines({"messages": TURNS}), {}, MARKED),
    "conversations": ("t.jsonl", lines({"conversations": SHARED}), {}, MARKED),
    "conversations with roles": ("t.jsonl", lines({"conversations": TURNS}), {}, MARKED),
    "messages with from": ("t.jsonl", lines({"messages": SHARED}), {}, MARKED),
    "model": ("t.jsonl", lines(named("user", "model")), {}, MARKED),
    "bot and human": ("t.jsonl", lines(named("Human", "bot")), {}, MARKED),
    "upper roles": ("t.jsonl", lines(named("USER", "ASSISTANT")), {}, MARKED),
    "own roles": (
        "t.jsonl",
        lines(named("Kunde", "Berater")),
        {"roles": {"Kunde": "user", "Berater": "assistant"}},
        MARKED,
    ),
    "own keys": (
        "t.jsonl",
        lines({"messages": [{"speaker": turn["role"], "text": turn["content"]} for turn in TURNS]}),
        {"message_keys": {"speaker": "role", "text": "content"}},
        MARKED,
    ),
    "own column": ("t.jsonl", lines({"dialog": TURNS}), {"columns": {"dialog": "messages"}}, MARKED),
    "parts": (
        "t.jsonl",
        lines({"messages": [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in TURNS]}),
        {},
        MARKED,
    ),
    "input and output": ("t.jsonl", lines({"input": ASKED, "output": ANSWER}), {}, MARKED),
    "prompt and completion": ("t.jsonl", lines({"prompt": ASKED, "completion": ANSWER}), {}, MARKED),
    "prompt and response": ("t.jsonl", lines({"prompt": ASKED, "response": ANSWER}), {}, MARKED),
    "question and answer": ("t.jsonl", lines({"question": ASKED, "answer": ANSWER}), {}, MARKED),
    "query and response": ("t.jsonl", lines({"query": ASKED, "response": ANSWER}), {}, MARKED),
    "prompt as messages": ("t.jsonl", lines({"prompt": TURNS[:1], "completion": TURNS[1:]}), {}, MARKED),
    "instruction": ("t.jsonl", lines({"instruction": ASKED, "input": "", "output": ANSWER}), {}, MARKED),
    "alpaca": ("t.jsonl", lines({"instruction": ASKED, "response": ANSWER}), {}, MARKED),
    "dolly": ("t.jsonl", lines({"instruction": "Which?", "context": "Rivers.", "response": ANSWER}), {}, MARKED),
    "own pair": (
        "t.jsonl",
        lines({"request": ASKED, "reply": ANSWER}),
        {"columns": {"request": "input", "reply": "output"}},
        MARKED,
    ),
    "csv": ("t.csv", CSV, {}, MARKED),
    "tsv": ("t.tsv", CSV.replace(",", "\t"), {}, MARKED),
    "semicolons": ("t.csv", CSV.replace(",", ";"), {"delimiter": ";"}, MARKED),
    "csv of Windows": ("t.csv", "\ufeff" + CSV.replace("\n", "\r\n"), {}, MARKED),
    "chats in csv": ("t.csv", f'messages\n"{JSON_TEXT}"\n"{JSON_TEXT}"\n', {}, MARKED),
    "parquet": ("t.parquet", lambda path: parquet(path, [{"messages": TURNS}] * 2), {}, MARKED),
    "chats as text in parquet": (
        "t.parquet",
        lambda path: parquet(path, [{"messages": json.dumps(TURNS)}] * 2),
        {},
        MARKED,
    ),
    "save_to_disk": ("t", saved, {}, MARKED),
    "save_to_disk with splits": ("t", lambda path: saved(path, ["train", "test"]), {"split": "test"}, MARKED),
    "text": ("t.jsonl", lines({"text": TEXT}), {}, WHOLE),
    "own text": ("t.jsonl", lines({"content": TEXT}), {"columns": {"content": "text"}}, WHOLE),
    "text in csv": ("t.csv", f"text\n{TEXT}\n{TEXT}\n", {}, WHOLE),
    "a session": (
        "t.jsonl",
        lines(
            {"type": "session", "id": "s", "harness": "own"},
            {"type": "message", "message": TURNS[0]},
            {"type": "message", "message": TURNS[1]},
        ),
        {},
        MARKED[:1],
    ),
    "sessions": (
        "t.jsonl",
        lines({"harness": "own", "traces": [{"type": turn["role"], "message": turn} for turn in TURNS]}),
        {},
        MARKED,
    ),
}

# name of the file, its content, the message, and options of the source that make it right
NAMED = {
    "lists": (
        "t.jsonl",
        lines([TURNS[0], TURNS[1]]),
        r'name the list of messages: \{"messages"',
        None,
    ),
    "a list of lists": ("t.json", json.dumps([TURNS, TURNS]), r'name the list of messages: \{"messages"', None),
    "a list named jsonl": (
        "t.jsonl",
        json.dumps([{"messages": TURNS}], indent=1),
        "is one list .*; name it .json",
        None,
    ),
    "rows in an object": (
        "t.json",
        json.dumps({"data": [{"messages": TURNS}]}),
        "keep the list under 'data' only",
        None,
    ),
    "UTF-16": ("t.jsonl", lines({"messages": TURNS}).encode("utf-16"), "is UTF-16, .* iconv -f UTF-16 -t UTF-8", None),
    "put together": (
        "t.jsonl",
        lines({"text": "a"}) + "\n\ufeff" + lines({"text": "a"}),
        ":3: .*order mark",
        None,
    ),
    "printed by Python": ("t.jsonl", str({"messages": TURNS}), "printed by Python. write it with json.dumps", None),
    "chats printed by Python": ("t.csv", f'messages\n"{PYTHON_TEXT}"\n', "printed by Python. write it with json", None),
    "an empty answer in csv": ("t.csv", "prompt,completion\na,\n", "'completion' must be a string, not null", None),
    "messages as rows": ("t.jsonl", lines(*TURNS), r"each row is one message, .* jq -sc '\{messages: \.\}'", None),
    "other delimiter": ("t.csv", CSV.replace(",", ";"), r'delimiter: ";"', {"delimiter": ";"}),
    "other column": (
        "t.jsonl",
        lines({"conversation": TURNS}),
        "columns: {conversation: messages}",
        {"columns": {"conversation": "messages"}},
    ),
    "other pair": (
        "t.jsonl",
        lines({"Task": ASKED, "Solution": ANSWER}),
        "columns: {Task: instruction, Solution: output}",
        {"columns": {"Task": "instruction", "Solution": "output"}},
    ),
    "other keys": (
        "t.jsonl",
        lines({"messages": [{"role": turn["role"], "text": turn["content"]} for turn in TURNS]}),
        "message_keys: {text: content}",
        {"message_keys": {"text": "content"}},
    ),
    "other roles": (
        "t.jsonl",
        lines(named("Kunde", "Berater")),
        "unknown role 'Kunde' .*'roles' of a source adds others",
        {"roles": {"Kunde": "user", "Berater": "assistant"}},
    ),
    "another ending": ("t.txt", lines({"messages": TURNS}), "expected a file that ends in .jsonl, .json", None),
    "splits": ("t", lambda path: saved(path, ["a", "b"]), "the splits a, b; name one with 'split'", {"split": "a"}),
    "preferences": (
        "t.jsonl",
        lines({"prompt": "q", "chosen": "a", "rejected": "b"}),
        "{prompt: instruction, chosen:",
        None,
    ),
}


def trained(folder, name, content, options):
    """The texts that are trained of a source that is this file."""
    path = folder / name
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    labeller = make_labeller()
    made = prepare(loaded({"path": str(path), **options}, workers=1), REGISTRY, labeller)
    decode = labeller.tokenizer.decode
    return [
        decode([int(token) for token in (example.input_ids if labels[1] >= 0 else labels) if token >= 0])
        for example in made.train
        if (labels := example.labels) is not None
    ]


@pytest.mark.parametrize("layout", LABELLED)
def test_a_layout_is_labelled(tmp_path, layout):
    *file, right = LABELLED[layout]
    assert trained(tmp_path, *file) == right


@pytest.mark.parametrize("layout", NAMED)
def test_one_message_names_the_way(tmp_path, layout):
    name, content, message, options = NAMED[layout]
    with pytest.raises(SftError, match=f"(?s){message}"):
        trained(tmp_path, name, content, {})
    if options:
        (tmp_path / "again").mkdir()
        assert trained(tmp_path / "again", name, content, options) == MARKED


def test_there_are_many_layouts():
    assert len({**LABELLED, **NAMED}) >= 50
