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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftcore.core.components import Template
from sftcore.core.errors import ConfigError, nearest

_STRINGS = {
    "description",
    "source",
    "begin",
    "default_system",
    "generation_prompt",
    "end",
    "system",
    "user",
    "assistant",
    "tool",
}
_KEYS = _STRINGS | {"trim", "stop"}
_ROLES = ("system", "user", "assistant", "tool")


@dataclass
class FileTemplate(Template):
    """A chat template in a ``.json`` or ``.jinja`` file."""

    path: Path
    """The file."""

    def jinja(self) -> str:
        text = _read(self.path)
        return text if self.path.suffix == ".jinja" else compile_template(_parse(text, self.path))

    def description(self) -> str:
        """Return the description in the JSON form; empty for Jinja."""
        if self.path.suffix == ".jinja":
            return ""
        return str(_parse(_read(self.path), self.path).get("description", ""))

    def stop(self) -> list[str]:
        if self.path.suffix == ".jinja":
            return []
        return list(_parse(_read(self.path), self.path).get("stop", []))


def _read(path: Path) -> str:
    if path.suffix not in (".json", ".jinja"):
        raise ConfigError(f"template {path}: the file name must end in .json or .jinja")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"template {path} cannot be read: {error}") from None


def _parse(text: str, path: Path) -> dict[str, Any]:
    """Return the checked JSON form of a template."""
    try:
        form = json.loads(text)
    except ValueError as error:
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
            raise ConfigError(f"template {path}: '{key}' cannot have {{content}} in it; only a role has")
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
    lines = [
        "{%- if tools %}{{ raise_exception('this template does not support tools') }}{% endif %}",
        _print(form.get("begin", "")),
    ]
    if "default_system" in form:
        lines.append("{%- if not messages or messages[0]['role'] != 'system' %}")
        lines.append(_print(form["system"], _quote(form["default_system"])))
        lines.append("{%- endif %}")
    lines.append("{%- for message in messages %}")
    error = "{{ raise_exception('this template does not support tool calls') }}"
    lines.append(f"{{%- if message['tool_calls'] %}}{error}{{% endif %}}")
    branch = "if"
    for role in (role for role in _ROLES if role in form):
        lines.append(f"{{%- {branch} message['role'] == '{role}' %}}")
        lines.append(_print(form[role], content))
        branch = "elif"
    lines.append("{%- else %}{{ raise_exception('this template does not support the role ' + message['role']) }}")
    lines.append("{%- endif %}")
    lines.append("{%- endfor %}")
    if form.get("end"):
        lines.append("{%- if messages and messages[-1]['role'] == 'assistant' %}")
        lines.append(_print(form["end"]))
        lines.append("{%- endif %}")
    lines.append("{%- if add_generation_prompt %}")
    lines.append(_print(form["generation_prompt"]))
    lines.append("{%- endif %}")
    return "\n".join(line for line in lines if line)


def _print(text: str, content: str = "") -> str:
    """Return the Jinja statement that prints *text*, its placeholders replaced by expressions."""
    values = {"{content}": content, "{bos}": "bos_token", "{eos}": "eos_token"}
    parts: list[str] = []
    while text:
        found = [(text.index(mark), mark) for mark in values if mark in text]
        at, mark = min(found) if found else (len(text), "")
        if at:
            parts.append(_quote(text[:at]))
        if mark:
            parts.append(f"({values[mark]})")
        text = text[at + len(mark) :]
    return f"{{{{- {' + '.join(parts)} }}}}" if parts else ""


def _quote(text: str) -> str:
    """Return *text* as a Jinja string literal."""
    return json.dumps(text, ensure_ascii=False)
