"""Configurations, rows and tables of labelled rows, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sftcore import Conversation, Message
from sftcore.config.document import Document
from sftcore.config.loader import LoadedConfig, load_config
from sftcore.core.registry import Registry
from sftcore.data.row_types import Origin
from sftcore.data.selection import RowKeys
from sftcore.data.sources.formats import ParsedRow
from sftcore.data.tables.examples import SelectedRows
from sftcore.data.tables.label_batch import label_rows
from sftcore.data.tables.table import DIGEST, Table
from sftcore.labelling import Labeller, Policy

REGISTRY = Registry.discover()

PLAIN = """{% for m in messages %}{{ '[' + m.role + ']' + m.content + '</s>' }}
{%- if m.content == 'bad' %}{{ raise_exception('message ' ~ loop.index ~ ': not this word') }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"""


def loaded(train: Any, seed: int = 42, **data: Any) -> LoadedConfig:
    """Return a configuration with this data section."""
    config = {"model": {"name_or_path": "x"}, "method": "full", "data": {"train": train, **data}, "seed": seed}
    return load_config(Document(config), REGISTRY, {})


def write(path: Path, rows: Iterable[Any]) -> str:
    """Write *rows*, one a line; those that are text as they are."""
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def make_labeller(source: str = PLAIN) -> Labeller:
    """Return a labeller to which every marker and every other byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(marker, normalized=False) for marker in ("[system]", "[user]", "[assistant]", "</s>")]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    tokenizer.chat_template = source
    return Labeller(tokenizer, ["</s>"])


def key(text: str) -> bytes:
    """Return *text* as the key of a row."""
    return text.encode().ljust(DIGEST, b".")


def keys(*texts: str) -> RowKeys:
    """Return the keys of rows that say *texts*."""
    return np.frombuffer(b"".join(map(key, texts)), f"V{DIGEST}")


def said(found: RowKeys) -> list[str]:
    """The texts of the rows with these keys."""
    return [one.rstrip(b".").decode() for one in found.tolist()]


def row(*texts: str, line: int = 1, **assistant: Any) -> ParsedRow:
    """Return a row of *texts*, the first the user's; *assistant* has more fields of each answer."""
    roles: Any = ["user", "assistant"] * len(texts)
    fields: Any = [{}, assistant] * len(texts)
    messages = (Message(role, text, **more) for role, text, more in zip(roles, texts, fields, strict=False))
    return ParsedRow(Conversation(tuple(messages)), Origin("f", line), key(str(line)))


def table_of(
    rows: Sequence[ParsedRow],
    labeller: Labeller,
    per_block: int = 1000,
    policy: Policy = Policy(),  # noqa: B008
) -> Table:
    """Return *rows* labelled, so many in a batch."""
    firsts = range(0, len(rows), per_block)
    return Table([label_rows(rows[first : first + per_block], labeller, policy)[0] for first in firsts])


def part_of(table: Table, times: Sequence[int] | None = None, name: str = "f") -> SelectedRows:
    """Return all rows of *table*, each as often as *times* says: rows with 0 are skipped."""
    often = np.ones(len(table), np.int64) if times is None else np.array(times, np.int64)
    return SelectedRows(table, [name], np.flatnonzero(often), often[often > 0])
