"""The token ids that a model has embeddings for, where its tokenizer has others too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sftcore.core.errors import ConfigError, DataError
from sftcore.data.row_types import Example
from sftcore.runtime.console import count, warn


@dataclass(frozen=True)
class KnownIds:
    """The ids below *rows*, the number of rows of a model's embedding; *tokenizer* has ids beyond them."""

    rows: int
    tokenizer: Any

    def check(self, examples: Iterable[Example]) -> None:
        """Check that the model knows all tokens of *examples*.

        Raises:
            DataError: with the first row and token that it does not know.
        """
        for example in examples:
            ids = np.asarray(example.input_ids)
            if ids.max(initial=0) >= self.rows:
                token = int(ids[ids >= self.rows][0])
                raise DataError(f"{', '.join(map(str, example.origins))}: {self.describe(token)}; {_ADVICE}")

    def check_all(self, examples: Any) -> None:
        """Check these ``Examples`` as :meth:`check`, without a look at each example where all tokens are known."""
        if any(part.table.largest_id >= self.rows for part in examples.parts):
            self.check(examples)

    def describe(self, token: int) -> str:
        """What is wrong with the id *token*."""
        text = self.tokenizer.convert_ids_to_tokens(token)
        return f"the token {text!r} has the id {token}, but the model has {count(self.rows, 'embedding')} (vocab_size)"


_ADVICE = "use a model whose embedding was resized for this tokenizer, or keep that text out of the data"


def fit_to_embedding(tokenizer: Any, rows: int | None) -> KnownIds | None:
    """The ids that a model whose embedding has *rows* knows; None where these are all ids of *tokenizer*.

    A padding token that it does not know is replaced by another one, which is reported.

    Raises:
        ConfigError: there is no token for padding.
    """
    if rows is None or max([len(tokenizer) - 1, *tokenizer.added_tokens_decoder]) < rows:
        return None
    known = KnownIds(rows, tokenizer)
    if (padding := int(tokenizer.pad_token_id)) >= rows:
        names = ("eos_token", "unk_token", "bos_token")
        ids = {getattr(tokenizer, name): getattr(tokenizer, f"{name}_id") for name in names}
        others = [text for text, number in ids.items() if number is not None and number < rows]
        if not others:
            raise ConfigError(f"{known.describe(padding)}, and no other token for padding")
        warn(f"{known.describe(padding)}; {others[0]!r} is used for padding instead, and saved with the model")
        tokenizer.pad_token = others[0]
    return known
