"""Checks for the tests of a plugin: each raises an AssertionError that says which part of the contract does not hold.

For example, in a pytest of a format::

    def test_the_contract():
        check_format(Pairs(), rows=[{"pairs": [["Hi", "Hello"]]}])
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sftcore.config.document import Document
from sftcore.config.fields import describe_options, from_mapping, to_mapping
from sftcore.core.components import KINDS, Backend, Component, Format, Method, Template, Tracker
from sftcore.core.errors import RowError, SftError
from sftcore.core.types import Conversation, Message

__all__ = ["check_backend", "check_format", "check_method", "check_options", "check_template", "check_tracker"]

_ODD_VALUES: tuple[Any, ...] = (None, True, -1, 0.5, "", "text", [], [[]], [None], {}, {"role": 3}, "[", '{"a": 1}')
"""Values that a key of a malformed row may have."""


def check_options(component: Component) -> None:
    """Check that the options of *component* are documented, typed, and the same when read again; all checks do this."""
    cls = type(component)
    kinds = [kind for kind in KINDS.values() if isinstance(component, kind)]
    names = [kind.__name__ for kind in KINDS.values()]
    assert len(kinds) == 1, f"{cls.__name__} must inherit from exactly one of {names}"
    documented = not (cls.__doc__ or f"{cls.__name__}(").startswith(f"{cls.__name__}(")  # dataclass writes a signature
    assert documented, f"{cls.__name__} has no docstring"
    for option in describe_options(cls):
        assert option.name != "name", "an option cannot be called 'name'"
        assert option.description, f"the option '{option.name}' has no description: put a string below the field"
    typing.get_type_hints(cls)
    again = from_mapping(cls, to_mapping(component), Document({}), ())
    assert again == component, f"the options {to_mapping(component)} give {again}"
    assert pickle.loads(pickle.dumps(component)) == component, "the component is not the same after pickling"  # noqa: S301


def check_format(format_: Format, rows: Sequence[Mapping[str, Any]]) -> None:
    """Check that *format_* reads *rows*, which are valid, and raises only RowError for malformed ones like them."""
    check_options(format_)
    assert rows, "give at least one valid row"
    for row in rows:
        before = json.dumps(row)
        conversation = format_.read(row)
        assert isinstance(conversation, Conversation), f"read returns {conversation!r}"
        for message in conversation.messages:
            assert isinstance(message, Message), f"parse returns {message!r}, which is not a Message"
            assert isinstance(message.content, str), f"the content of {message!r} must be a string"
        assert format_.read(row) == conversation, "the same row gives another conversation the second time"
        assert json.dumps(row) == before, "parse changes the row"
        for malformed in _malformed(row):
            try:
                format_.read(malformed)
            except RowError:
                continue
            except Exception as error:
                problem = f"{type(error).__name__} instead of RowError for {malformed!r}: {error}"
                raise AssertionError(problem) from error


def _malformed(value: Any) -> Iterator[Any]:
    """Yield copies of *value* in which one inner value is missing or odd."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield {name: other for name, other in value.items() if name != key}
            yield from ({**value, key: odd} for odd in (*_ODD_VALUES, *_malformed(item)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from ([*value[:index], odd, *value[index + 1 :]] for odd in (*_ODD_VALUES, *_malformed(item)))


def check_template(template: Template) -> None:
    """Check that *template* renders two turns, with every text of them and the generation prompt last."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(problem: str) -> None:
        raise AssertionError(f"the template raises: {problem}")

    check_options(template)
    assert all(text and isinstance(text, str) for text in template.stop()), "stop() must return non-empty strings"
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = raise_exception
    compiled = environment.from_string(template.jinja())
    messages = [Message("user", "Question1").to_dict(), Message("assistant", "Answer1").to_dict()] * 2
    names = {"bos_token": "<bos>", "eos_token": "<eos>"}
    text = compiled.render(messages=messages, **names)
    assert text.count("Question1") == text.count("Answer1") == 2, f"a message is missing in {text!r}"
    prompt = compiled.render(messages=messages[:1], add_generation_prompt=True, **names)
    question = compiled.render(messages=messages[:1], **names)
    assert prompt.startswith(question), f"the generation prompt must come last in {prompt!r}"


def check_method(method: Method, model: Any, args: Any) -> Any:
    """Check that *method* makes a model with trainable parameters of *model*, and return it.

    *model* is a small ``transformers.PreTrainedModel``, *args* are ``transformers.TrainingArguments``.
    """
    import torch

    check_options(method)
    options = method.load_options(torch.float32)
    assert isinstance(options, dict), f"load_options returns {options!r}"
    prepared = method.prepare(model, args)
    assert isinstance(prepared, torch.nn.Module), f"prepare returns {prepared!r}"
    trainable = {id(parameter) for parameter in prepared.parameters() if parameter.requires_grad}
    assert trainable, "no parameter is trainable"
    optimizer = method.optimizer(prepared, args)
    if optimizer is not None:
        given = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        assert given == trainable, "the optimizer does not have exactly the trainable parameters"
    return prepared


def check_tracker(tracker: Tracker, run: Mapping[str, Any]) -> None:
    """Check that *tracker* takes *run* (as ``start`` gets it), metrics and an end, and has options that are JSON."""
    check_options(tracker)
    options = to_mapping(tracker)
    assert json.loads(json.dumps(options)) == options, f"the options {options} are not JSON"
    tracker.start(run)
    for step in (1, 2):
        tracker.log({"loss": 1 / step, "learning_rate": 1e-4}, step)
    tracker.finish(None)


def check_backend(backend: Backend, environ: Mapping[str, str]) -> None:
    """Check the answers of *backend*, and that :meth:`sftcore.Backend.command` changes nothing.

    *environ* is the environment of a process that its launcher has started, or of a process alone if it starts none.
    """
    import transformers

    check_options(backend)
    before = dict(os.environ)
    argv = ["run", "--config", "c.yaml", "a=b c"]
    command = backend.command(argv)
    assert dict(os.environ) == before, "command() changes the environment"
    if command is not None:
        assert all(isinstance(word, str) for word in command), f"command() returns {command!r}"
        at = command.index(argv[0])
        assert command[at : at + len(argv)] == argv, "the command must contain the arguments as they are"
    try:
        backend.start(environ, cpu=True)
    except SftError as error:
        raise AssertionError(f"start() rejects the environment of its own launcher: {error}") from error
    names = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    unknown = backend.training_args().keys() - names
    assert not unknown, f"transformers.TrainingArguments has no {', '.join(sorted(unknown))}"
    assert isinstance(backend.layout(2), str), "layout() must return a string"
    assert isinstance(backend.writes_shards(), bool), "writes_shards() must return a bool"
