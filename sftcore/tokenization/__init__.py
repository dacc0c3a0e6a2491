"""From texts to tokens: one text, or many at once as columns of numbers."""

from sftcore.encoding.accelerator import Accelerator, find_accelerator
from sftcore.encoding.columns import Columns
from sftcore.encoding.encoder import Encoder
from sftcore.encoding.proofs import Proofs
from sftcore.encoding.single import Encoded, encode, tokens_of_prefix

__all__ = ["Accelerator", "Columns", "Encoded", "Encoder", "Proofs", "encode", "find_accelerator", "tokens_of_prefix"]
