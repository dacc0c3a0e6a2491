"""``{"text": "..."}``: a plain text, all of which is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sftcore import Format, Message, RowError
from sftcore.rows import read_text


@dataclass
class Completion(Format):
    """A plain text, trained whole and without the chat template."""

    reads: ClassVar[Mapping[str, Any]] = {"text": None}
    plain_text: ClassVar[bool] = True

    def parse(self, row: Mapping[str, Any]) -> list[Message]:
        for key in ("system", "system_prompt", "tools", "functions", "chat_template_kwargs", "parallel_tool_calls"):
            if row.get(key):
                raise RowError(f"'{key}' has no place in a plain text")
        text = read_text(row, "text")
        if not text.strip():
            raise RowError("the text is empty")
        return [Message("user", text)]
