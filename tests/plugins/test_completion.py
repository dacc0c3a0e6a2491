"""Plain texts: trained whole, as documents, and in pieces where they are long."""

from __future__ import annotations

import json

import pytest
from sftcore_plugins.formats.completion import Completion
from transformers import AutoTokenizer

from sftcore import ConfigError, RowError
from sftcore.config.document import Document
from sftcore.config.loader import load_config
from sftcore.core.errors import DataError
from sftcore.core.registry import Registry
from sftcore.data import prepare
from sftcore.labelling import Labeller

REGISTRY = Registry.discover()
TEXT = "Rain fell on the roofs of Bergen all night, as it had the night before and the night before that."


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return AutoTokenizer.from_pretrained(smollm2)


def prepared(folder, tokenizer, rows=({"text": TEXT},), source=(), **data):
    path = folder / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = {"model": {"name_or_path": "x"}, "method": "full"}
    config["data"] = {"train": {"path": str(path), **dict(source)}, **data}
    return prepare(load_config(Document(config), REGISTRY, {}), REGISTRY, Labeller(tokenizer, ["<|im_end|>"]))


def test_a_text_is_trained_whole_to_its_end(tmp_path, tokenizer):
    made = prepared(tmp_path, tokenizer)
    [example] = made.train
    assert made.sources[0].source.format_name == "completion (auto)"
    assert example.input_ids.tolist() == [*tokenizer(TEXT)["input_ids"], tokenizer.eos_token_id]
    assert example.labels.tolist() == [-100, *example.input_ids.tolist()[1:]]  # nothing predicts the first


def test_a_text_begins_as_the_tokenizer_begins_texts(tmp_path, smollm2):
    from tokenizers.processors import TemplateProcessing

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    begin = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    [example] = prepared(tmp_path, tokenizer).train
    assert example.input_ids.tolist() == [*tokenizer(TEXT)["input_ids"], tokenizer.eos_token_id]
    assert example.input_ids[0] == begin[1]


@pytest.mark.parametrize("truncation", ["drop_turns", "split"])
def test_a_long_text_becomes_pieces_and_this_is_reported(tmp_path, tokenizer, truncation):
    whole = [*tokenizer(TEXT)["input_ids"], tokenizer.eos_token_id]
    made = prepared(tmp_path, tokenizer, max_length=8, truncation=truncation)
    pieces = [example.input_ids.tolist() for example in made.train]
    assert pieces == [whole[at : at + 8] for at in range(0, len(whole), 8)]
    assert all((example.labels == example.input_ids)[1:].all() for example in made.train)
    assert [note for note in made.train_summary.notes if "split off" in note] == [
        f"{len(pieces) - 1} examples were split off to fit max_length"
    ]


def test_a_long_text_is_cut_or_dropped_as_configured(tmp_path, tokenizer):
    cut = prepared(tmp_path, tokenizer, max_length=8, truncation="truncate_right")
    assert [len(example.input_ids) for example in cut.train] == [8]
    assert "1 text was cut at max_length" in cut.train_summary.notes
    rows = [{"text": TEXT}, {"text": "Short."}]
    assert len(prepared(tmp_path, tokenizer, rows, max_length=8, truncation="drop_row").train) == 1
    with pytest.raises(DataError, match="more than max_length 8"):
        prepared(tmp_path, tokenizer, rows, max_length=8, truncation="error")


def test_the_weight_of_the_source(tmp_path, tokenizer):
    [example] = prepared(tmp_path, tokenizer, source={"weight": 0.5}).train
    assert set(example.weights[1:]) == {0.5}


@pytest.mark.parametrize("option", [{"train_on": "assistant"}, {"reasoning": "mask"}, {"train_on_stop": False}])
def test_options_for_turns_are_an_error(tmp_path, tokenizer, option):
    name = next(iter(option))
    with pytest.raises(ConfigError, match=rf"data\.train\.{name}: is for conversations, and the format completion"):
        prepared(tmp_path, tokenizer, source=option)
    assert len(prepared(tmp_path, tokenizer, source={"train_on": "all", "format": "completion"}).train) == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": " "}, "the text is empty"),
        ({"text": 3}, "'text' must be a string, not a number"),
        ({"text": "a", "system": "s"}, "'system' has no place in a plain text"),
        ({"text": "a", "chat_template_kwargs": {"x": 1}}, "'chat_template_kwargs' has no place in a plain text"),
    ],
)
def test_malformed_texts(row, reason):
    with pytest.raises(RowError, match=reason):
        Completion().read(row)


def test_texts_beside_conversations(tmp_path, tokenizer):
    (tmp_path / "c.jsonl").write_text(json.dumps({"prompt": "q", "completion": "a"}))
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": TEXT}))
    config = {"model": {"name_or_path": "x"}, "method": "full", "data": {"train": str(tmp_path)}}
    with pytest.raises(DataError, match=r"several formats fit its rows: completion .*, prompt_completion"):
        prepare(load_config(Document(config), REGISTRY, {}), REGISTRY, Labeller(tokenizer, ["<|im_end|>"]))
    config["data"]["train"] = [str(tmp_path / "c.jsonl"), str(tmp_path / "t.jsonl")]
    made = prepare(load_config(Document(config), REGISTRY, {}), REGISTRY, Labeller(tokenizer, ["<|im_end|>"]))
    trained = [sum(label >= 0 for label in example.labels) for example in made.train]
    assert sorted(trained) == [2, len(tokenizer(TEXT)["input_ids"])]


def test_texts_beside_messages_of_one_shape(tmp_path, tokenizer):
    texts = [f"Rain fell on day {number}." for number in range(9)]
    (tmp_path / "c.jsonl").write_text(
        "\n".join(json.dumps({"messages": [{"role": "user", "content": text}]}) for text in texts)
    )
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    sources = [{"path": str(tmp_path / f"{name}.jsonl"), "train_on": "all"} for name in "ct"]
    config = {"model": {"name_or_path": "x"}, "method": "full", "data": {"train": sources, "workers": 1}}
    made = prepare(load_config(Document(config), REGISTRY, {}), REGISTRY, Labeller(tokenizer, ["<|im_end|>"]))
    documents = [tokenizer.decode(example.input_ids) for example in made.train][9:]
    assert documents == [text + "<|im_end|>" for text in texts]
