"""Chat templates in files: Jinja, or a JSON form that is compiled to Jinja.

The JSON form has one string per role::

    {
      "default_system": "You are a helpful assistant.",
      "system":    "<|im_start|>system\\n{content}<|im_end|>\\n",
      "user":      "<|im_start|>user\\n{content}<|im_end|>\\n",
      "assistant": "<|im_start|>assistant\\n{content}<|im_end|>\\n",
      "generation_prompt": "<|im_start|>assistant\\n",
      "stop": ["<|im_end|>"]
    }

``{bos}`` and ``{eos}`` are the tokenizer's own tokens; docs/templates.md explains every key.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftcore.core.components import Template
from sftcore.core.errors import ConfigError, nearest
from sftcore.core.json_text import STRICT

SUFFIXES = (".json", ".jinja")
_ROLES = ("system", "user", "assistant", "tool")
_STRINGS = {"description", "source", "begin", "default_system", "generation_prompt", "end", *_ROLES}
_KEYS = _STRINGS | {"trim", "stop"}


@dataclass
class FileTemplate(Template):
    """A chat template in a ``.json`` or ``.jinja`` file."""

    path: Path
    """The file."""

    def jinja(self) -> str:
        return _read(self.path) if self.path.suffix == ".jinja" else compile_template(self._form())

    def description(self) -> str:
        """Return the description in the JSON form; empty for Jinja."""
        return str(self._form().get("description", ""))

    def stop(self) -> list[str]:
        return list(self._form().get("stop", []))

    def _form(self) -> dict[str, Any]:
        return {} if self.path.suffix == ".jinja" else _parse(_read(self.path), self.path)


def _read(path: Path) -> str:
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"template {path}: the file name must end in .json or .jinja")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"template {path} cannot be read: {error}") from None


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        form = STRICT.decode(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"template {path}: not valid JSON: {error}") from None
    if not isinstance(form, dict):
        raise ConfigError(f"template {path}: must be one JSON object")
    for key, value in form.items():
        if key not in _KEYS:
            raise ConfigError(f"template {path}: unknown key '{key}'{nearest(key, _KEYS)}")
        if key in _STRINGS and not isinstance(value, str):
            raise ConfigError(f"template {path}: '{key}' must be a string")
        if key in _ROLES and "{content}" not in value:
            raise ConfigError(f"template {path}: '{key}' must have {{content}} in it")
        if key in ("begin", "generation_prompt", "end") and "{content}" in value:
            raise ConfigError(f"template {path}: '{key}' must not contain {{content}}; only the keys of roles do")
    for key in ("user", "assistant", "generation_prompt"):
        if key not in form:
            raise ConfigError(f"template {path}: '{key}' is missing")
    if not isinstance(form.get("trim", False), bool):
        raise ConfigError(f"template {path}: 'trim' must be true or false")
    stop = form.get("stop", [])
    if not isinstance(stop, list) or not all(isinstance(item, str) and item for item in stop):
        raise ConfigError(f"template {path}: 'stop' must be a list of strings")
    if "default_system" in form and "system" not in form:
        raise ConfigError(f"template {path}: 'default_system' needs 'system'")
    return form


def compile_template(form: dict[str, Any]) -> str:
    """Return the Jinja source of the checked JSON *form* of a template.

    Roles that the form does not have, tools and tool calls raise an error in the rendering, so that nothing is
    dropped silently.
    """
    content = "message['content'] | trim" if form.get("trim") else "message['content']"
    default_system = _print(form["system"], _quote(form["default_system"])) if "default_system" in form else ""
    lines = [
        "{%- if tools %}{{ raise_exception('this template does not support tools') }}{% endif %}",
        _print(form.get("begin", "")),
        *_if("not messages or messages[0]['role'] != 'system'", default_system),
        "{%- for message in messages %}",
        "{%- if message['tool_calls'] %}{{ raise_exception('this template does not support tool calls') }}",
    ]
    for role in _ROLES:
        if role in form:
            lines += [f"{{%- elif message['role'] == '{role}' %}}", _print(form[role], content)]
    lines += [
        "{%- else %}{{ raise_exception('this template does not support the role ' + message['role']) }}",
        "{%- endif %}",
        "{%- endfor %}",
        *_if("messages and messages[-1]['role'] == 'assistant'", _print(form.get("end", ""))),
        *_if("add_generation_prompt", _print(form["generation_prompt"])),
    ]
    return "\n".join(filter(None, lines))


def _if(condition: str, statement: str) -> list[str]:
    return [f"{{%- if {condition} %}}", statement, "{%- endif %}"] if statement else []


def _print(text: str, content: str = "") -> str:
    """Return the Jinja statement that prints *text*, its placeholders replaced by expressions."""
    values = {"{content}": content, "{bos}": "bos_token", "{eos}": "eos_token"}
    parts = filter(None, re.split("({content}|{bos}|{eos})", text))
    expressions = [f"({values[part]})" if part in values else _quote(part) for part in parts]
    return f"{{{{- {' + '.join(expressions)} }}}}" if expressions else ""


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
