"""The template of a run: which one wins, why, and what ends a turn in it."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from sftcore import ConfigError, Conversation, Message
from sftcore.config.document import Document
from sftcore.config.loader import load_config
from sftcore.config.schema import ModelConfig
from sftcore.core.registry import Registry
from sftcore.models.base_model import BaseModel
from sftcore.models.chat_template import build_labeller, select_template, split_stops

REGISTRY = Registry.discover()
OWN = "{% for m in messages %}{{ m.content }}{% endfor %}"
FILE = {"user": "U:{content}", "assistant": "A:{content}<|im_end|>", "generation_prompt": "A:", "stop": ["U:"]}


@pytest.fixture
def tokenizer(smollm2):
    own = AutoTokenizer.from_pretrained(smollm2)
    own.chat_template = OWN
    return own


@pytest.fixture
def choose(tmp_path, tokenizer):
    """Choose with some keys of the configuration, for a base model with these end tokens in its generation config."""

    def run(eos=None, **keys):
        base = BaseModel("the-base", str(tmp_path), ModelConfig("the-base"))
        if eos is not None:
            (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
        data = {"model": {"name_or_path": "x"}, "data": {"train": "x"}, "method": "full", **keys}
        return select_template(load_config(Document(data, "c.yaml"), REGISTRY, {}), tokenizer, base)

    return run


@pytest.fixture
def file(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(FILE))
    return str(tmp_path / "t.json")


def test_a_named_template_always_wins(choose, tokenizer, file):
    chosen = choose(template="qwen2_chatml", template_path=file)
    assert chosen.reason == "'sftcore/qwen2_chatml', because the configuration names it"
    assert "You are a helpful assistant." in tokenizer.chat_template
    assert choose(template="sftcore/qwen2_chatml").fingerprint == chosen.fingerprint


def test_the_tokenizers_own_template_comes_before_template_path(choose, tokenizer, file):
    assert choose().reason == "the tokenizer's own"
    chosen = choose(template_path=file)
    assert chosen.reason == f"the tokenizer's own (template_path {file} is for tokenizers without one)"
    assert tokenizer.chat_template == OWN
    assert "U:" not in chosen.stops


def test_template_path_is_for_a_tokenizer_without_a_template(choose, tokenizer, file):
    tokenizer.chat_template = None
    chosen = choose(template_path=file)
    assert chosen.reason == f"{file}, because the tokenizer has none of its own"
    assert chosen.stops == ("U:", "<|im_end|>")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "q"}], tokenize=False, add_generation_prompt=True)
    assert text == "U:qA:"


def test_no_chat_template_at_all_is_an_error(choose, tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(
        ConfigError, match=r"c.yaml: the tokenizer of the-base has no chat template; name one with 'templ"
    ):
        choose()


def test_a_template_path_that_does_not_exist(choose, tokenizer, tmp_path):
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match=r"template_path: the file .*absent.json does not exist"):
        choose(template_path=str(tmp_path / "absent.json"))


def test_of_several_chat_templates_one_has_to_be_named(choose, tokenizer):
    tokenizer.chat_template = {"default": OWN, "tool_use": OWN}
    with pytest.raises(
        ConfigError, match=r"has several chat templates \(default, tool_use\); name the one .*'template'"
    ):
        choose()
    assert choose(template="qwen2_chatml").reason.startswith("'sftcore/qwen2_chatml'")


@pytest.mark.parametrize(
    ("eos", "template", "expected"),
    [
        (None, None, ["<|im_end|>"]),
        (2, None, ["<|im_end|>"]),
        ([0, 2], None, ["<|im_end|>", "<|endoftext|>"]),
        ([0], "qwen2_chatml", ["<|im_end|>", "<|endoftext|>"]),
        ([0], "deepseek_chat", ["<|im_end|>", "<|endoftext|>"]),
    ],
)
def test_stop_strings_of_template_tokenizer_and_generation_config(choose, eos, template, expected):
    assert list(choose(eos, template=template).stops) == expected


def test_stop_strings_of_a_tokenizer_without_an_eos_token(choose, tokenizer):
    tokenizer.eos_token = None
    assert choose().stops == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not a valid JSON file"),
        ("[]", "cannot be read"),
        ('{"eos_token_id": -1}', "its eos_token_id -1 is not a token of the tokenizer"),
        ('{"eos_token_id": 99999999}', "its eos_token_id 99999999 is not a token of the tokenizer"),
        ('{"eos_token_id": "</s>"}', "its eos_token_id '</s>' is not a token"),
        ('{"eos_token_id": [[1]]}', r"its eos_token_id \[1\] is not a token"),
        ('{"eos_token_id": true}', "its eos_token_id True is not a token"),
        ('{"max_new_tokens": -5}', "cannot be read: .*max_new_tokens"),
        ('{"cache_implementation": "nope"}', "cannot be read: .*cache_implementation"),
    ],
)
def test_a_broken_generation_config_is_one_error(choose, tmp_path, text, problem):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(ConfigError, match=f"the generation_config.json of .*{problem}"):
        choose()


def test_the_fingerprint_of_the_chat_template(choose, tokenizer):
    first = choose().fingerprint
    assert first.startswith("sha256:")
    assert choose().fingerprint == first
    tokenizer.chat_template += " "
    assert choose().fingerprint != first


def test_the_labeller_has_the_selected_template_its_stops_and_its_variables(tmp_path, tokenizer):
    tokenizer.chat_template = "{{ x }}" + OWN + "{{ '' if add_generation_prompt else '<|im_end|>' }}"
    base = BaseModel("the-base", str(tmp_path), ModelConfig("the-base"))
    data = {"model": {"name_or_path": "x"}, "data": {"train": "x"}, "method": "full", "template_kwargs": {"x": "X"}}
    loaded = load_config(Document(data, "c.yaml"), REGISTRY, {})
    made = build_labeller(loaded, tokenizer, select_template(loaded, tokenizer, base))
    [example] = made.examples(Conversation((Message("user", "q"), Message("assistant", "a"))))
    assert example.text == "Xqa<|im_end|>"
    assert made.stops == ["<|im_end|>"]


def test_a_chat_template_that_is_not_valid(tmp_path, tokenizer):
    tokenizer.chat_template = "\n{% for"
    base = BaseModel("the-base", str(tmp_path), ModelConfig("the-base"))
    data = {"model": {"name_or_path": "x"}, "data": {"train": "x"}, "method": "full"}
    loaded = load_config(Document(data, "c.yaml"), REGISTRY, {})
    with pytest.raises(ConfigError, match=r"^the chat template \(the tokenizer's own\) is not valid: line 2: "):
        build_labeller(loaded, tokenizer, select_template(loaded, tokenizer, base))


def test_stop_tokens_are_split_from_stops_that_are_text(tokenizer):
    assert split_stops(tokenizer, ["<|im_end|>", "U:", "<|im_end|>", "<|endoftext|>"]) == ([2, 0], ["U:"])
    assert split_stops(tokenizer, []) == ([], [])


@pytest.mark.parametrize(
    ("name", "markers"),
    [
        ("chatglm3", "<|system|>, <|user|>, <|assistant|>, <|observation|>, </s>"),
        ("baichuan2_chat", "<reserved_106>, <reserved_107>, </s>"),
        ("llama3_instruct", "<|begin_of_text|>, <|start_header_id|>, <|end_header_id|>, <|eot_id|>"),
    ],
)
def test_a_named_template_whose_markers_are_not_tokens(choose, name, markers):
    with pytest.raises(ConfigError) as refused:
        choose(template=name)
    said = str(refused.value)
    assert f"template: its markers {markers} are not tokens of this tokenizer" in said
    assert "markers are tokens: deepseek_chat, qwen2_chatml; without 'template' the tokenizer's own is used" in said


@pytest.mark.parametrize(
    ("source", "accepted"),
    [
        ("{{ '<|im_start|>' }}<tool_call>{# <|absent|> #}", True),
        ("{{ '<|absent|>' }}", False),
        ("<｜User｜>", False),
        ("<start_of_turn>user", False),
        ("Question: {{ messages[0].content }}", True),
    ],
)
def test_markers_in_a_template_file(choose, tokenizer, tmp_path, source, accepted):
    tokenizer.chat_template = None
    (tmp_path / "own.jinja").write_text(source)
    if accepted:
        choose(template_path=str(tmp_path / "own.jinja"))
    else:
        with pytest.raises(ConfigError, match=r"template_path: its markers .* are not tokens"):
            choose(template_path=str(tmp_path / "own.jinja"))
