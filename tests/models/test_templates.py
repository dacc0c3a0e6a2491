"""The shipped templates: their text, and what is trained of it, written out by hand."""

from __future__ import annotations

import pytest
from sftcore_plugins.formats.instruction import Instruction
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sftcore import Conversation, Message, RowError
from sftcore.config.document import Document
from sftcore.config.loader import load_config
from sftcore.core.registry import Registry
from sftcore.core.types import IGNORE_INDEX
from sftcore.models.chat_template import build_labeller, select_template

DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
TOKENS = {  # the beginning and end tokens of the models' own tokenizers
    "qwen2_chatml": ("<|endoftext|>", "<|im_end|>"),
    "llama3_instruct": ("<|begin_of_text|>", "<|eot_id|>"),
    "chatglm3": ("[gMASK]", "</s>"),
    "baichuan2_chat": ("<s>", "</s>"),
    "deepseek_chat": DEEPSEEK,
    "alpaca": ("<s>", "</s>"),
}
MARKERS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("[gMASK]", "sop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    *("<s>", "</s>", "<reserved_106>", "<reserved_107>", *DEEPSEEK),
]
TURNS = (
    Message("user", "What is 2+2?"),
    Message("assistant", "It is 4."),
    Message("user", " 再见 👋\n"),
    Message("assistant", "Bye!\n\nSee you."),
)
SYSTEM = Message("system", "Be brief.")

TASK, PAIR = (
    "Below is an instruction that describes a task.",
    "Below is an instruction that describes a task, paired with",
)
WRITE = "Write a response that appropriately completes the request.\n\n"

# name: (text without a system message, the same with one, the generation prompt, what is trained)
EXPECTED = {
    "qwen2_chatml": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhat is 2+2?<|im_end|>\n"
        "<|im_start|>assistant\nIt is 4.<|im_end|>\n"
        "<|im_start|>user\n 再见 👋\n<|im_end|>\n"
        "<|im_start|>assistant\nBye!\n\nSee you.<|im_end|>\n",
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is 2+2?<|im_end|>\n"
        "<|im_start|>assistant\nIt is 4.<|im_end|>\n"
        "<|im_start|>user\n 再见 👋\n<|im_end|>\n"
        "<|im_start|>assistant\nBye!\n\nSee you.<|im_end|>\n",
        "<|im_start|>assistant\n",
        ["It is 4.<|im_end|>", "Bye!\n\nSee you.<|im_end|>"],
    ),
    "llama3_instruct": (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is 2+2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nIt is 4.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n再见 👋<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nBye!\n\nSee you.<|eot_id|>",
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is 2+2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nIt is 4.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n再见 👋<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nBye!\n\nSee you.<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ["It is 4.<|eot_id|>", "Bye!\n\nSee you.<|eot_id|>"],
    ),
    "chatglm3": (  # the prompt ends with the marker; the line break and blank after it are the model's own
        "[gMASK]sop<|user|>\n What is 2+2?<|assistant|>\n It is 4."
        "<|user|>\n  再见 👋\n<|assistant|>\n Bye!\n\nSee you.</s>",
        "[gMASK]sop<|system|>\n Be brief.<|user|>\n What is 2+2?<|assistant|>\n It is 4."
        "<|user|>\n  再见 👋\n<|assistant|>\n Bye!\n\nSee you.</s>",
        "<|assistant|>",
        ["\n It is 4.<|user|>", "\n Bye!\n\nSee you.</s>"],
    ),
    "baichuan2_chat": (  # the model's own format ends only the last turn with a token, so each is trained as the last
        "<reserved_106>What is 2+2?<reserved_107>It is 4.<reserved_106> 再见 👋\n<reserved_107>Bye!\n\nSee you.</s>",
        "Be brief.<reserved_106>What is 2+2?<reserved_107>It is 4."
        "<reserved_106> 再见 👋\n<reserved_107>Bye!\n\nSee you.</s>",
        "<reserved_107>",
        ["It is 4.</s>", "Bye!\n\nSee you.</s>"],
    ),
    "deepseek_chat": (
        "<｜begin▁of▁sentence｜>User: What is 2+2?\n\nAssistant: It is 4.<｜end▁of▁sentence｜>"
        "User:  再见 👋\n\n\nAssistant: Bye!\n\nSee you.<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜>Be brief.\n\nUser: What is 2+2?\n\nAssistant: It is 4.<｜end▁of▁sentence｜>"
        "User:  再见 👋\n\n\nAssistant: Bye!\n\nSee you.<｜end▁of▁sentence｜>",
        "Assistant:",
        [" It is 4.<｜end▁of▁sentence｜>", " Bye!\n\nSee you.<｜end▁of▁sentence｜>"],
    ),
    "alpaca": (
        f"<s>{TASK} {WRITE}### Instruction:\nWhat is 2+2?\n\n### Response:\nIt is 4.</s>\n\n"
        "### Instruction:\n 再见 👋\n\n\n### Response:\nBye!\n\nSee you.</s>",
        "<s>Be brief.\n\n### Instruction:\nWhat is 2+2?\n\n### Response:\nIt is 4.</s>\n\n"
        "### Instruction:\n 再见 👋\n\n\n### Response:\nBye!\n\nSee you.</s>",
        "### Response:\n",
        ["It is 4.</s>", "Bye!\n\nSee you.</s>"],
    ),
}


@pytest.fixture(scope="session")
def bpe():
    """A small byte-level BPE that knows the markers of all templates."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["What is it? It is 4. See you. Assistant: User: Be brief.\n\n"] * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(marker, normalized=False) for marker in MARKERS])
    return tokenizer


@pytest.fixture
def chosen(bpe, request):
    """A tokenizer with the template of the test set on it, as a run does, and its labeller."""
    name = request.getfixturevalue("name")
    bos, eos = TOKENS[name]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=bos, eos_token=eos)
    data = {"model": {"name_or_path": "x"}, "data": {"train": "x"}, "method": "full", "template": name}
    loaded = load_config(Document(data), Registry.discover(), {})
    return tokenizer, build_labeller(loaded, tokenizer, select_template(loaded, tokenizer, Base()))


class Base:
    """A model without a generation configuration."""

    name = location = "/nowhere"

    def pretrained_kwargs(self):
        return {}


def trained(tokenizer, example):
    """The decoded runs of trained tokens."""
    runs, before = [], IGNORE_INDEX
    for label in example.labels:
        if label != IGNORE_INDEX:
            runs.append([*([] if before == IGNORE_INDEX else runs.pop()), label])
        before = label
    return [tokenizer.decode(run) for run in runs]


def as_dicts(messages):
    return [message.to_dict() for message in messages]


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("system", [False, True], ids=["no system", "system"])
class TestEach:
    def test_text_and_generation_prompt(self, chosen, name, system):
        tokenizer, _ = chosen
        messages = as_dicts((SYSTEM, *TURNS) if system else TURNS)
        text = EXPECTED[name][system]
        assert tokenizer.apply_chat_template(messages, tokenize=False) == text
        question = tokenizer.apply_chat_template(messages[:-1], tokenize=False)
        prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        assert prompt == question + EXPECTED[name][2]
        assert text.startswith(prompt)

    def test_what_is_trained(self, chosen, name, system):
        tokenizer, labeller = chosen
        messages = (SYSTEM, *TURNS) if system else TURNS
        examples = labeller.examples(Conversation(messages))
        for example in examples:
            ids = tokenizer.apply_chat_template(as_dicts(messages[: example.messages]), return_dict=False)
            assert example.input_ids == ids
            assert all(label in (token, IGNORE_INDEX) for label, token in zip(example.labels, ids, strict=True))
        assert [turn for example in examples for turn in trained(tokenizer, example)] == EXPECTED[name][3]
        assert len(examples) == (2 if name == "baichuan2_chat" else 1)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("role", ["tool", "critic"])
def test_a_role_that_the_template_does_not_print_is_rejected(chosen, name, role):
    tokenizer, labeller = chosen
    conversation = Conversation((*TURNS[:2], Message(role, "42"), Message("assistant", "So it is.")))
    if (name, role) == ("chatglm3", "tool"):
        [example] = labeller.examples(conversation)
        assert trained(tokenizer, example) == ["\n It is 4.<|observation|>", "\n So it is.</s>"]
    else:
        with pytest.raises(RowError, match=f"does not support the role {role}"):
            labeller.examples(conversation)


@pytest.mark.parametrize("name", EXPECTED)
def test_tools_that_the_template_does_not_print_are_rejected(chosen, name):
    _, labeller = chosen
    with pytest.raises(RowError, match="does not support tools"):
        labeller.examples(Conversation(TURNS, tools=({"name": "f"},)))


@pytest.mark.parametrize("name", ["alpaca"])
def test_an_instruction_with_its_input(chosen, name):
    tokenizer, labeller = chosen
    form = Instruction(separator="\n\n### Input:\n")
    [example] = labeller.examples(form.read({"instruction": "Add them.", "input": "2 and 2", "output": "4"}))
    assert example.text == (
        f"<s>{PAIR} an input that provides further context. {WRITE}"
        "### Instruction:\nAdd them.\n\n### Input:\n2 and 2\n\n### Response:\n4</s>"
    )
    assert trained(tokenizer, example) == ["4</s>"]
    [example] = labeller.examples(form.read({"instruction": "Add 2 and 2.", "input": "", "output": "4"}))
    assert example.text.startswith(f"<s>{TASK} {WRITE}### Instruction:\nAdd 2 and 2.\n\n### Response:\n")


def test_every_shipped_template_is_tested():
    names = {entry.name for entry in Registry.discover().of_kind("template") if entry.distribution == "sftcore"}
    assert names == set(EXPECTED)
