"""Keys that no format reads: told, counted, or the row is rejected."""

from __future__ import annotations

import json

import pytest
from sftcore_plugins.formats.messages import Messages
from transformers import AutoTokenizer

from sftcore.config.document import Document
from sftcore.config.loader import load_config
from sftcore.core.errors import DataError
from sftcore.core.registry import Registry
from sftcore.data import prepare, sample_sources
from sftcore.data.preparation.source_cache import Cache
from sftcore.data.sources.row_fields import ROW_KEYS, read_conversation
from sftcore.data.sources.unread import NEEDED, keys_of, unread_keys
from sftcore.labelling import Labeller

REGISTRY = Registry.discover()
QA = {"input": "2 + 2?", "output": "4"}
TURNS = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]


@pytest.fixture(scope="module")
def labeller(smollm2):
    return Labeller(AutoTokenizer.from_pretrained(smollm2), ["<|im_end|>"])


def loaded(folder, rows, source="{path: t.jsonl}", **data):
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    keys = ", ".join([f"train: {source}", *(f"{key}: {value}" for key, value in data.items())])
    (folder / "c.yaml").write_text(f"model: {{name_or_path: x}}\nmethod: full\ndata: {{{keys}}}\n")
    return load_config(Document.load(folder / "c.yaml"), REGISTRY, {})


def prepared(folder, labeller, rows, **data):
    return prepare(loaded(folder, rows, **data), REGISTRY, labeller, cache=Cache(folder / "cache"))


def turns(**more):
    """A row of messages whose answer has *more* keys."""
    return {"messages": [TURNS[0], {**TURNS[1], **more}]}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({**QA, "wieght": 2}, "wieght (did you mean 'weight'?)"),
        ({**QA, "id": 7}, "id"),
        ({**QA, "tool_defs": [{}]}, "tool_defs (did you mean 'tools'?)"),
        ({"instruction": "a", "output": "b", "lang": "en"}, "lang"),
        ({"instruction": "a", "response": "b", "category": "qa"}, "category"),
        ({"messages": TURNS, "prompt_id": "x"}, "prompt_id"),
        (turns(trian=False), "messages.trian (did you mean 'train'?)"),
        (turns(reasonning_content="r"), "messages.reasonning_content (did you mean 'reasoning_content'?)"),
        (turns(content=[{"type": "text", "text": "4", "style": "bold"}]), "messages.content.style"),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "wight": 0}]},
            "conversations.wight (did you mean 'weight'?)",
        ),
    ],
)
def test_a_key_that_nothing_reads_is_counted_with_its_nearest_name(tmp_path, labeller, row, name):
    found = prepared(tmp_path, labeller, [row, row])
    [source] = found.sources
    (key,) = source.cached.totals.unread
    assert key.startswith(name)
    assert found.account.unread == {key: 2}
    assert found.account.trained == 2
    again = prepared(tmp_path, labeller, [row, row])  # from the cache
    assert again.account == found.account
    with pytest.raises(DataError, match=r"t.jsonl:1: nothing reads .*, and data.unread is error"):
        prepared(tmp_path, labeller, [row, row], unread="error")
    ignored = prepared(tmp_path, labeller, [row, row], unread="ignore")
    assert (ignored.account.trained, ignored.account.unread) == (2, {})


def test_the_note_names_source_keys_and_rows(tmp_path, labeller):
    rows = [QA, {**QA, "lang": "en"}, {**QA, "lang": "de", "id": 3}]
    totals = prepared(tmp_path, labeller, rows).sources[0].cached.totals
    note = "t.jsonl: nothing reads lang: 2 rows, id: 1 row; `data.unread: error` rejects such rows"
    assert totals.unread_note("t.jsonl") == note
    assert prepared(tmp_path, labeller, [QA]).sources[0].cached.totals.unread_note("t.jsonl") == ""


@pytest.mark.parametrize(
    "row",
    [
        QA,
        {**QA, "id": None, "tags": [], "note": "", "meta": {}},
        {**QA, "system": "s", "tools": [{"name": "f"}], "chat_template_kwargs": {"x": 1}, "weight": 2, "train": None},
        {**QA, "history": [["a", "b"]], "reasoning_content": "r"},
        {"instruction": "a", "context": "c", "response": "b"},
        turns(name="x", weight=1),
        turns(content=[{"type": "text", "text": "4"}]),
    ],
)
def test_what_is_read_or_empty_is_not_reported(tmp_path, labeller, row):
    assert prepared(tmp_path, labeller, [row], unread="error").account.unread == {}


@pytest.mark.parametrize("key", sorted(NEEDED))
def test_a_row_with_a_key_that_changes_what_is_trained_is_rejected(tmp_path, labeller, key):
    read = key in ("history", "reasoning_content", "context")  # by single turns; what every row may have, in a part
    row = {**({"messages": TURNS} if read else QA), key: "x"}
    if key in ROW_KEYS:
        row = turns(content=[{"type": "text", "text": "4", key: "x"}])
    with pytest.raises(DataError, match=f"t.jsonl:1: '[a-z.]*{key}' is not read: .*, or set data.unread to ignore"):
        prepared(tmp_path, labeller, [row])
    assert prepared(tmp_path, labeller, [row], unread="ignore").account.trained == 1


@pytest.mark.parametrize("key", ["images", "Images", "tool_call", "masked", "tools", "refusal", "train_detail", "Loss"])
def test_the_same_holds_for_a_key_of_a_message(tmp_path, labeller, key):
    with pytest.raises(DataError, match=f"t.jsonl:1: 'messages.{key}' is not read: "):
        prepared(tmp_path, labeller, [turns(**{key: True})])


@pytest.mark.parametrize(
    ("call", "names"),
    [
        ({"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}, []),
        ({"name": "f", "arguments": {}, "strct": 1}, ["messages.tool_calls.strct"]),
        (
            {"function": {"name": "f", "arguments": {}, "nme": "g"}},
            ["messages.tool_calls.function.nme (did you mean 'name'?)"],
        ),
    ],
)
def test_keys_of_a_tool_call(call, names):
    row = turns(tool_calls=[call])
    assert unread_keys(row, read_conversation(Messages(), row), keys_of(Messages())) == names


def test_a_source_has_its_own_way(tmp_path, labeller):
    row = {**QA, "lang": "en"}
    found = prepared(tmp_path, labeller, [row], source="{path: t.jsonl, unread: ignore}", unread="error")
    assert found.account.unread == {}


def test_a_renamed_column_counts_by_its_new_name(tmp_path, labeller):
    rows = [{"q": "2 + 2?", "a": "4", "w": 0.5}]
    source = "{path: t.jsonl, columns: {q: input, a: output, w: weight}}"
    assert prepared(tmp_path, labeller, rows, source=source, unread="error").account.trained == 1
    source = "{path: t.jsonl, columns: {q: input, a: output, w: wait}}"
    assert list(prepared(tmp_path, labeller, rows, source=source).account.unread) == ["wait (did you mean 'weight'?)"]


def test_rows_of_dolly_keep_their_context(tmp_path):
    made = loaded(tmp_path, [{"instruction": "Sum up.", "context": "Long.", "response": "Ok.", "category": "x"}])
    [source] = sample_sources(made.config.data.train, ("data", "train"), made, REGISTRY)
    assert [message.content for message in source.rows[0].conversation.messages] == ["Sum up.\nLong.", "Ok."]


@pytest.mark.parametrize("answer", ['[{"label": "PER", "text": "Ann"}]', "[1, 2]", "[", '[{"role": "x"}, 3]'])
def test_an_answer_that_is_json_is_text(tmp_path, labeller, answer):
    found = prepared(tmp_path, labeller, [{"input": "Which names?", "output": answer}], unread="error")
    assert (found.account.trained, found.account.unread) == (1, {})


@pytest.mark.parametrize("key", ["meta.label", "label (gold)", "score_chosen"])
def test_a_name_that_only_contains_a_needed_key_is_told(tmp_path, labeller, key):
    assert prepared(tmp_path, labeller, [{**QA, key: "x"}]).account.trained == 1


def test_mistyped_keys_are_told_first(tmp_path, labeller):
    more = {f"column {number}": 1 for number in range(20)}
    totals = prepared(tmp_path, labeller, [{**QA, **more}, {**QA, **more, "wieght": 2}]).sources[0].cached.totals
    assert totals.unread_note("t").startswith("t: nothing reads wieght (did you mean 'weight'?): 1 row, column")


def test_a_preview_counts_them_too(tmp_path):
    made = loaded(tmp_path, [{**QA, "lang": "en"}])
    [sample] = sample_sources(made.config.data.train, ("data", "train"), made, REGISTRY)
    assert sample.unread == {"lang": 1}
