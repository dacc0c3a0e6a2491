"""From texts to tokens: one text, or many at once as columns of numbers."""

from sftcore.tokenization.accelerator import Accelerator, find_accelerator
from sftcore.tokenization.encoder import Encoder
from sftcore.tokenization.equivalence_cache import Proofs
from sftcore.tokenization.single_text import Encoded, encode, tokens_of_prefix
from sftcore.tokenization.token_columns import Columns

__all__ = ["Accelerator", "Columns", "Encoded", "Encoder", "Proofs", "encode", "find_accelerator", "tokens_of_prefix"]
