"""From texts to tokens: one text, or many at once as columns of numbers.

In: texts and a tokenizer of transformers. Out: ids, and which tokens lie around any character.
Knows nothing of conversations, templates or labels.
"""

from sftcore.tokenization.accelerator import EquivalenceCache, find_accelerator
from sftcore.tokenization.encoder import Encoder
from sftcore.tokenization.token_columns import EncodedText, TokenColumns, count_prefix_tokens, encode_text

__all__ = [
    "EncodedText",
    "Encoder",
    "EquivalenceCache",
    "TokenColumns",
    "count_prefix_tokens",
    "encode_text",
    "find_accelerator",
]
