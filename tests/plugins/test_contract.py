"""The conformance kit of ``sftcore.testing``: the built-in components pass it, and each broken one fails."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from sftcore_plugins.backends.none import OneProcess
from sftcore_plugins.backends.torchrun import Torchrun
from sftcore_plugins.formats.alpaca import Alpaca
from sftcore_plugins.formats.instruction import Instruction
from sftcore_plugins.formats.messages import Messages
from sftcore_plugins.formats.qa import QA
from sftcore_plugins.formats.sharegpt import ShareGPT
from sftcore_plugins.methods.full import Full
from sftcore_plugins.methods.lora import LoRA
from sftcore_plugins.trackers.none import NoTracker
from sftcore_plugins.trackers.tensorboard import TensorBoard

from sftcore import Backend, Format, Message, Method, Template
from sftcore.core.registry import Registry
from sftcore.core.template_file import FileTemplate
from sftcore.testing import check_backend, check_format, check_method, check_options, check_template, check_tracker

BUILT_IN = [entry for entry in Registry.discover().entries if entry.distribution == "sftcore"]
TEMPLATES = [entry.target for entry in BUILT_IN if isinstance(entry.target, Path)]

CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
ROWS = {
    Messages: {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": "Ho", "reasoning_content": "h", "tool_calls": [CALL], "weight": 0.5},
        ],
        "tools": [{"name": "f", "parameters": {}}],
    },
    ShareGPT: {
        "conversations": [
            {"from": "human", "value": "Hi"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {}}', "train": True},
        ],
        "system": "Be brief.",
    },
    QA: {"input": "Hi", "output": "Ho"},
    Instruction: {"instruction": "Say", "input": "Hi", "output": "Ho", "chat_template_kwargs": {"a": 1}},
    Alpaca: {"instruction": "Say", "response": "Ho"},
}


@pytest.mark.parametrize("entry", [entry for entry in BUILT_IN if not isinstance(entry.target, Path)], ids=str)
def test_every_built_in_documents_its_options(entry) -> None:
    check_options(entry.component_class()())


@pytest.mark.parametrize("format_", ROWS)
def test_built_in_formats_reject_malformed_rows_with_a_row_error(format_) -> None:
    check_format(format_(), [ROWS[format_]])


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_built_in_templates_render(path: Path) -> None:
    check_template(FileTemplate(path))


@pytest.fixture
def model_and_args(tiny: Path, tmp_path: Path):
    from transformers import AutoModelForCausalLM, TrainingArguments

    return AutoModelForCausalLM.from_pretrained(tiny), TrainingArguments(output_dir=str(tmp_path), use_cpu=True)


@pytest.mark.parametrize("method", [Full(), LoRA(r=2), LoRA(r=2, loraplus_lr_ratio=4.0)], ids=str)
def test_built_in_methods_make_a_trainable_model(method, model_and_args) -> None:
    check_method(method, *model_and_args)


def test_built_in_trackers_take_a_run(tmp_path: Path) -> None:
    run = {"id": "1", "name": "n", "output_dir": str(tmp_path), "command": [], "config": {}, "versions": {}, "pid": 1}
    check_tracker(NoTracker(), run)
    check_tracker(TensorBoard(), run)
    assert list((tmp_path / "tensorboard").iterdir())


def test_built_in_backends_keep_the_contract() -> None:
    check_backend(OneProcess(), {})
    check_backend(Torchrun(nproc_per_node=2), {"RANK": "0", "WORLD_SIZE": "2"})


@dataclass
class Undocumented(Format):
    """A format."""

    size: int = 3


@dataclass
class NoDocstring(Format):
    pass


@dataclass
class Careless(Format):
    """Raises what the row makes it raise."""

    def parse(self, row):
        return [Message("user", row["q"]), Message("assistant", row["a"])]


@dataclass
class Changing(Format):
    """Changes the row."""

    def parse(self, row):
        return [Message("user", row.pop("q", "")), Message("assistant", "a")]


@dataclass
class Forgetful(Template):
    """Prints the first message only."""

    def jinja(self):
        return "{{ messages[0]['content'] }}"


@dataclass
class Frozen(Method):
    """Trains nothing."""

    def prepare(self, model, args):
        return model.requires_grad_(False)


@dataclass
class Shortened(Backend):
    """Loses arguments."""

    def command(self, argv):
        return ["launch", *argv[:2]]


@dataclass
class Misspelled(Backend):
    """Sets an argument that transformers does not have."""

    def training_args(self):
        return {"fdsp": True}


@pytest.mark.parametrize(
    ("check", "problem"),
    [
        (lambda: check_options(Undocumented()), "the option 'size' has no description"),
        (lambda: check_options(NoDocstring()), "NoDocstring has no docstring"),
        (lambda: check_format(Careless(), [{"q": "Hi", "a": "Ho"}]), "KeyError instead of RowError for {'a': 'Ho'}"),
        (lambda: check_format(Changing(), [{"q": "Hi"}]), "another conversation the second time"),
        (lambda: check_template(Forgetful()), "a message is missing"),
        (lambda: check_backend(Shortened(), {}), "must contain the arguments as they are"),
        (lambda: check_backend(Misspelled(), {}), "TrainingArguments has no fdsp"),
    ],
)
def test_a_broken_component_fails_its_check(check, problem: str) -> None:
    with pytest.raises(AssertionError) as error:
        check()
    assert problem in str(error.value)


def test_a_method_that_trains_nothing_fails_its_check(model_and_args) -> None:
    with pytest.raises(AssertionError, match="no parameter is trainable"):
        check_method(Frozen(), *model_and_args)
