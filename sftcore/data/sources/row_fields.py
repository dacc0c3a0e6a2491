"""The fields of a row that work in every format: system prompt, tools, template variables, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sftcore.core.components import Format, variable_problem
from sftcore.core.errors import RowError, json_type
from sftcore.core.json_text import read_json
from sftcore.core.training_fields import TRAINING_KEYS, read_training_fields
from sftcore.core.types import Conversation, Message

ROW_KEYS: Mapping[str, Any] = dict.fromkeys(
    ("system", "system_prompt", "tools", "functions", "chat_template_kwargs", "parallel_tool_calls", *TRAINING_KEYS)
)
"""The keys of these fields, as in :attr:`sftcore.Format.reads`."""

_KEYS = frozenset(ROW_KEYS)


def read_conversation(form: Format, row: Mapping[str, Any]) -> Conversation:
    """The conversation of *row*: what *form* reads, and these fields.

    Raises:
        RowError: from the format, or one of the fields has an invalid value.
    """
    conversation = form.read(row)
    if _KEYS.isdisjoint(row):
        return conversation
    messages = _with_system(conversation.messages, row)
    if not TRAINING_KEYS.isdisjoint(row):
        messages = _with_training_fields(messages, row)
    kwargs = {**_template_kwargs(row), **conversation.template_kwargs}
    for name in kwargs:
        if problem := variable_problem(name):
            raise RowError(f"'chat_template_kwargs' must not have {name!r}: it {problem}")
    return Conversation(messages, conversation.tools or _tools(row), kwargs)


def _with_system(messages: Sequence[Message], row: Mapping[str, Any]) -> Sequence[Message]:
    system = _one_of(row, "system", "system_prompt", _text)
    if not system:
        return messages
    if any(message.role == "system" and message.content != system for message in messages):
        raise RowError("has a 'system' field and a different system message; keep one of them")
    return messages if messages[0].role == "system" else (Message("system", system), *messages)


def _with_training_fields(messages: Sequence[Message], row: Mapping[str, Any]) -> Sequence[Message]:
    """*messages* with the training fields of *row*: a message's own ``train`` wins, and weights are multiplied.

    True leaves to ``train_on`` which messages are trained: those of the user are not.
    """
    fields = read_training_fields(row)
    train, weight = fields["train"] and None, fields["weight"]
    return tuple(
        replace(message, train=train if message.train is None else message.train, weight=weight * message.weight)
        for message in messages
    )


def _one_of(row: Mapping[str, Any], key: str, other: str, read: Callable[[Mapping[str, Any], str], Any]) -> Any:
    """What *read* finds at *key* or *other*, which must not differ; None if that is empty."""
    first, second = read(row, key) or None, read(row, other) or None
    if first and second and first != second:
        raise RowError(f"'{key}' and '{other}' differ; keep one of them")
    return first or second


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise RowError(f"'{key}' must be a string, not {json_type(value)}")
    return value or ""


def _decoded(row: Mapping[str, Any], key: str) -> Any:
    """The value at *key*, decoded where it is JSON text; None where it is missing or empty."""
    value = row.get(key)
    if not isinstance(value, str):
        return value
    return read_json(value, f"'{key}'") if value.strip() else None


def _template_kwargs(row: Mapping[str, Any]) -> dict[str, Any]:
    parallel = row.get("parallel_tool_calls")
    kwargs = {} if parallel is None else {"parallel_tool_calls": parallel}
    value = _decoded(row, "chat_template_kwargs")
    if value is None:
        return kwargs
    if not isinstance(value, Mapping):
        raise RowError(f"'chat_template_kwargs' must be an object, not {json_type(value)}")
    return {**kwargs, **value}


def _tools(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    value = _one_of(row, "tools", "functions", _decoded)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RowError(f"'tools' must be a list of objects, not {json_type(value)}")
    return tuple(_tool(tool, f"tool {number} of 'tools': ") for number, tool in enumerate(value, start=1))


def _tool(tool: object, where: str) -> Mapping[str, Any]:
    """*tool* as OpenAI's API has it; MCP's ``inputSchema`` and Anthropic's ``input_schema`` become ``parameters``."""
    if isinstance(tool, str) and tool.lstrip().startswith("{"):
        tool = read_json(tool, f"{where}its text")
    if not isinstance(tool, Mapping):
        raise RowError(f"{where}must be an object, not {json_type(tool)}")
    if "function" not in tool and tool.get("type") not in (None, "function"):
        return tool  # such as a built-in tool of an API, for the template to print
    function = tool.get("function", {key: value for key, value in tool.items() if key != "type"})
    if not isinstance(function, Mapping):
        raise RowError(f"{where}'function' must be an object, not {json_type(function)}")
    if not isinstance(name := function.get("name"), str) or not name.strip():
        raise RowError(f"{where}the 'name' is missing")
    for key in ("inputSchema", "input_schema"):
        if key in function:
            function = {"parameters" if item == key else item: value for item, value in function.items()}
    if (schema := function.get("parameters", {})) is None:
        function = {key: value for key, value in function.items() if key != "parameters"}
    elif not isinstance(schema, Mapping):
        raise RowError(f"{where}'parameters' of '{name}' must be an object, not {json_type(schema)}")
    return {"type": "function", **(tool if "function" in tool else {}), "function": function}
