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
from sftcore.models.chat_template import build_labeller, prompt_with_header, select_template, split_stops

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


def talk(*tools):
    return Conversation((Message("user", "q"), Message("assistant", "a")), tools)


CHAT = "{% for m in messages %}{{ '[' + m.role + ']' + m.content + '<|im_end|>' }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}[assistant]{% endif %}"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
SEVERAL = {"default": CHAT + PROMPT, "tool_use": "{{ tools | tojson }}" + CHAT + PROMPT, "other": "O" + CHAT + PROMPT}


@pytest.fixture
def set_up(tmp_path, tokenizer):
    """The template that is chosen by some keys, and its labeller."""

    def run(source, data=None, **keys):
        tokenizer.chat_template = source
        base = BaseModel("the-base", str(tmp_path), ModelConfig("the-base"))
        raw = {"model": {"name_or_path": "x"}, "data": {"train": "x", **(data or {})}, "method": "full", **keys}
        loaded = load_config(Document(raw, "c.yaml"), REGISTRY, {})
        template = select_template(loaded, tokenizer, base)
        labeller = build_labeller(loaded, tokenizer, template)
        if loaded.config.data.header == "prompt":
            template = prompt_with_header(tokenizer, labeller, template)
            labeller = build_labeller(loaded, tokenizer, template)
        return template, labeller

    return run


def test_of_several_chat_templates_each_row_gets_the_one_of_apply_chat_template(set_up, tokenizer, tmp_path):
    template, labeller = set_up(SEVERAL)
    assert template.reason == "the tokenizer's own: 'default', and 'tool_use' for rows with tools"
    for tools in ((), (TOOL,)):
        conversation = talk(*tools)
        [example] = labeller.examples(conversation)
        messages = [message.to_dict() for message in conversation.messages]
        assert example.text == tokenizer.apply_chat_template(messages, tools=list(tools) or None, tokenize=False)
        assert labeller.tokenizer.decode([label for label in example.labels if label >= 0]) == "a<|im_end|>"
        assert labeller.render_with_plan(conversation) == labeller.render(conversation)
        assert labeller.messages_begun(conversation, 2, len(example.text)) == 2
    assert "f" in labeller.examples(talk(TOOL))[0].text
    tokenizer.save_pretrained(tmp_path / "saved")  # all of them are kept
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template == SEVERAL


def test_both_templates_give_their_stops_and_read_their_variables(set_up):
    sources = {"default": CHAT + PROMPT, "tool_use": CHAT.replace("'<|im_end|>'", "x + '<|endoftext|>'") + PROMPT}
    _, labeller = set_up(sources, template_kwargs={"x": "X"})
    assert set(labeller.stops) == {"<|im_end|>", "<|endoftext|>"}


def test_one_of_several_chat_templates_by_its_name(set_up, tokenizer):
    template, labeller = set_up(SEVERAL, template_name="other")
    assert template.reason == "the tokenizer's own: 'other' of default, tool_use, other"
    assert tokenizer.chat_template == SEVERAL["other"]
    assert labeller.examples(talk(TOOL))[0].text.startswith("O[user]")
    assert set_up({"default": CHAT + PROMPT, "rag": "R"})[0].reason == "the tokenizer's own: 'default' of default, rag"


@pytest.mark.parametrize(
    ("source", "keys", "problem"),
    [
        (SEVERAL, {"template_name": "tool_uze"}, r"no chat template 'tool_uze'; did you mean 'tool_use'\?; it has def"),
        (
            CHAT,
            {"template_name": "default"},
            "several chat templates of a tokenizer; the tokenizer of the-base has none",
        ),
        (SEVERAL, {"template_name": "other", "template": "qwen2_chatml"}, "of a tokenizer; 'template' is used"),
        ({"rag": CHAT, "tool_use": CHAT}, {}, r"several chat templates \(rag, tool_use\), and none is the 'default'"),
    ],
)
def test_a_name_that_chooses_no_template_is_an_error(set_up, source, keys, problem):
    with pytest.raises(ConfigError, match=problem):
        set_up(source, **keys)


@pytest.mark.parametrize("suffix", [".jinja", ".json"])
def test_a_file_replaces_the_tokenizers_own(set_up, tokenizer, tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    path.write_text(CHAT + PROMPT if suffix == ".jinja" else json.dumps({**FILE, "user": "[user]{content}"}))
    template, labeller = set_up(OWN, template=str(path))
    assert template.reason == f"{path}, because the configuration names it"
    assert labeller.examples(talk())[0].text.startswith("[user]q")
    assert set_up(SEVERAL, template=str(path))[0] == template


def test_a_file_of_a_package_replaces_the_tokenizers_own(set_up):
    template, _ = set_up(OWN, template="package:sftcore_templates/qwen2_chatml.json")
    assert template.fingerprint == set_up(OWN, template="qwen2_chatml")[0].fingerprint


@pytest.mark.parametrize("key", ["template", "template_path"])
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("absent.jinja", "the file absent.jinja does not exist"),
        ("package:nope/t.json", "the Python package 'nope' is not installed"),
        ("package:sftcore_templates/nope.jinja", "the file .*nope.jinja does not exist"),
    ],
)
def test_a_template_file_that_is_missing_is_found_before_the_tokenizer_is_loaded(key, value, problem):
    data = {"model": {"name_or_path": "x"}, "data": {"train": "x"}, "method": "full", key: value}
    with pytest.raises(ConfigError, match=f"{key}: .*{problem}"):
        load_config(Document(data, "c.yaml"), REGISTRY, {})


UNPROMPTED = CHAT.replace("'[' + m.role + ']'", "'<|im_start|>' + m.role + '\\n'")


@pytest.mark.parametrize("end", ["", "\n", "{{ '\\n' if add_generation_prompt }}"])
def test_the_header_as_generation_prompt(set_up, tokenizer, tmp_path, end):
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    source = (UNPROMPTED.replace("'<|im_start|>'", "'\\n<|im_start|>'") if "prompt" in end else UNPROMPTED) + end
    without, _ = set_up(source)
    before = tokenizer.apply_chat_template(messages, tokenize=False)
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    template, labeller = set_up(source, {"header": "prompt"})
    assert "as generation prompt (data.header)" in template.reason
    assert template.fingerprint != without.fingerprint
    assert tokenizer.decode([label for label in labeller.examples(talk())[0].labels if label >= 0]) == "a<|im_end|>"
    assert tokenizer.apply_chat_template(messages, tokenize=False) == before
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    served = saved.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert served == prompt + "<|im_start|>assistant\n"


def test_the_header_as_generation_prompt_of_each_of_several_templates(set_up, tokenizer):
    set_up({"default": UNPROMPTED, "tool_use": "{{ tools | tojson }}" + UNPROMPTED, "other": "O"}, {"header": "prompt"})
    for tools in (None, [TOOL]):
        served = tokenizer.apply_chat_template(
            [{"role": "user", "content": "q"}], tools=tools, tokenize=False, add_generation_prompt=True
        )
        assert served.endswith("q<|im_end|><|im_start|>assistant\n")
    assert tokenizer.chat_template["other"] == "O"


@pytest.mark.parametrize(
    "source", [CHAT + PROMPT, "{{ messages | length }}" + UNPROMPTED, UNPROMPTED + "{{ '!' }}", OWN]
)
def test_a_header_that_cannot_be_the_generation_prompt(set_up, tokenizer, capsys, source):
    template, _ = set_up(source, {"header": "prompt"})
    assert template.reason == "the tokenizer's own"
    assert tokenizer.chat_template == source
    assert "data.header: prompt has no effect" in capsys.readouterr().err


def test_without_it_the_message_names_the_key(set_up):
    _, labeller = set_up(UNPROMPTED)
    assert "data.header: prompt makes that the prompt" in labeller.problem


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
def test_a_named_template_whose_markers_are_no_tokens(choose, name, markers):
    with pytest.raises(ConfigError) as refused:
        choose(template=name)
    said = str(refused.value)
    assert f"template: its markers {markers} are not tokens of this tokenizer" in said
    assert (
        "markers are tokens: alpaca, deepseek_chat, qwen2_chatml; without 'template' the tokenizer's own is used"
        in said
    )


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
