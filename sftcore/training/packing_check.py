"""The isolation check of packing: whether documents that share a row can see each other in this very model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn

import torch
from transformers import TrainerCallback

from sftcore.core.errors import ConfigError
from sftcore.data import Collator, PackedSet, join
from sftcore.data.row_types import Example

DOCUMENTS = 4  # per row of the check
LENGTH = 16  # tokens used of each document, and tokens of each whose logits are compared
ROUNDING = 0.02  # relative change of the logits that 16 bits may cause for most tokens of a mixture of experts

_MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids")


class PackingCheck(TrainerCallback):  # type: ignore[misc]
    """Checks on the model itself, before the first step, that documents in a row do not see each other.

    Two rows of documents are passed to the model as in training, with dropout and activation checkpointing. Changing a
    document must not change the logits of any other: with masked attention this holds to the bit in any precision, and
    only experts may round differently. Then each document must have the logits that it has alone, which shows that
    positions restart at each document, and that attention windows end there.
    """

    def __init__(self, rows: PackedSet, collator: Collator) -> None:
        self._documents = rows.documents
        self._longest = int(rows.bins.lengths.argmax())
        self._collate_packed = collator
        self._collate_padded = Collator(collator.pad_token_id)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        rounded = args.bf16 or args.fp16 or model.device.type != "cpu"  # a GPU may use fewer bits than the weights have
        exact = not rounded and all(weight.dtype is torch.float32 for weight in model.parameters())
        short = [_first_tokens(self._documents[number % len(self._documents)], LENGTH) for number in range(DOCUMENTS)]
        self._check_leaks(model, short, exact)
        self._check_logits(model, self._with_long_document(model, short), exact)

    def _check_leaks(self, model: Any, documents: list[Example], exact: bool) -> None:
        with _mode(model, training=True):
            leaks = self._influence(model, documents, packed=True)
            if leaks[0] <= 1e-5:
                return
            noise = self._influence(model, documents, packed=False)
        experts = not exact and any("expert" in name for name, _ in model.named_modules())
        if not _is_rounding(leaks, noise, experts):
            _reject(model, f"changing one changes the logits of another, by {leaks[0]:.2g} of their size")

    def _check_logits(self, model: Any, documents: list[Example], exact: bool) -> None:
        with _mode(model, training=False):
            alone = [self._logits(model, [[document]], packed=False)[0] for document in documents]
            packed = self._logits(model, [documents, documents[::-1]], packed=True)
        distances = [_distances(*pair) for pair in zip(packed, alone + alone[::-1], strict=True)]
        error = 0.0
        for part in (slice(LENGTH), slice(LENGTH, None)):  # before and after the end of an attention window
            tokens = torch.cat([each[part] for each in distances])
            if len(tokens):  # rounding may send a token to another expert, but never half of them
                error = max(error, float(tokens.max() if exact else tokens.median()))
        if not error <= (1e-4 if exact else 0.1):
            _reject(model, f"the logits of one differ from those that it has alone, by {error:.2g} of their size")

    def _influence(self, model: Any, documents: list[Example], packed: bool) -> tuple[float, float, float]:
        """The relative change of logits when other documents are changed.

        The maximum; the upper quartile, because rounding may send a few tokens to other experts; and that of the first
        tokens of documents, which a recurrent state along the row affects most.
        """
        half, doubled = len(documents), [*documents, *reversed(documents)]  # the second row has other boundaries
        substitutes = _with_other_tokens(doubled)
        before = self._logits(model, [doubled[:half], doubled[half:]], packed)
        influence: list[torch.Tensor] = []
        for bit in range((len(doubled) - 1).bit_length()):
            for side in range(2):  # of any two documents, one changes and the other does not in at least one round
                changed = [(index >> bit) % 2 == side for index in range(len(doubled))]
                rows = [substitutes[index] if change else doubled[index] for index, change in enumerate(changed)]
                after = self._logits(model, [rows[:half], rows[half:]], packed)
                influence += [
                    _distances(new, old) for new, old, change in zip(after, before, changed, strict=True) if not change
                ]
        shares = torch.cat(influence)
        first_tokens = torch.stack([each[0] for each in influence])
        return float(shares.max()), _upper_quartile(shares), _upper_quartile(first_tokens)

    def _logits(self, model: Any, rows: Sequence[list[Example]], packed: bool) -> list[torch.Tensor]:
        """The logits of each document in *rows*, which are equally long: those of its first and last tokens.

        Each is float32 of shape (tokens, vocabulary).
        """
        documents = [document for row in rows for document in row]
        batch = self._collate_packed([join(row) for row in rows]) if packed else self._collate_padded(documents)
        inputs = {name: values.to(model.device) for name, values in batch.items() if name in _MODEL_INPUTS}
        torch.manual_seed(0)  # the same dropout each time
        try:
            logits = model(**inputs).logits
        except (TypeError, ValueError, NotImplementedError) as error:
            if not packed:
                raise
            _reject(model, f"it cannot take packed rows ({type(error).__name__}: {error})")
        lengths = [len(document.input_ids) for document in documents]
        if packed:
            separated = logits.flatten(0, 1).split(lengths)
        else:
            separated = [row[:length] for row, length in zip(logits, lengths, strict=True)]
        return [torch.cat([tokens[:LENGTH], tokens[LENGTH:][-LENGTH:]]).float().cpu() for tokens in separated]

    def _with_long_document(self, model: Any, short: list[Example]) -> list[Example]:
        """*short*, its second document longer than the attention window of the model if there is such a document."""
        config = model.config.get_text_config()
        windows = [getattr(config, name, None) or 0 for name in ("sliding_window", "attention_chunk_size")]
        if not any(windows):
            return short
        longest = self._documents[self._longest]
        return [short[0], _first_tokens(longest, max(windows) + LENGTH), *short[2:]]


def _reject(model: Any, why: str) -> NoReturn:
    kernel = getattr(model.config, "_attn_implementation", None)
    unwrapped = model.get_base_model() if hasattr(model, "get_base_model") else model
    raise ConfigError(
        f"data.packing: {type(unwrapped).__name__} with the attention '{kernel}' does not isolate packed "
        f"conversations: {why}; set data.packing to false, or try another model.attn_implementation"
    )


@contextmanager
def _mode(model: Any, training: bool) -> Iterator[None]:
    """Compute without gradients; mode and random state are restored."""
    before, device = model.training, model.device
    model.train(training)
    cuda = [device] if device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=cuda):
            yield
    finally:
        model.train(before)


def _first_tokens(document: Example, length: int) -> Example:
    """The first *length* tokens of *document*, at most."""
    ids = list(document.input_ids[:length])
    return Example(ids, ids, (len(ids),), document.origins)


def _with_other_tokens(documents: Sequence[Example]) -> list[Example]:
    """*documents* with another token in the place of each."""
    tokens = sorted({token for document in documents for token in document.input_ids})
    if len(tokens) == 1:
        tokens = sorted({*tokens, 0, 1})
    other = dict(zip(tokens, [*tokens[1:], tokens[0]], strict=True))
    return [replace(document, input_ids=[other[token] for token in document.input_ids]) for document in documents]


def _is_rounding(leaks: Sequence[float], noise: Sequence[float], experts: bool) -> bool:
    """Whether *leaks*, measured between documents of a row, may be rounding like *noise*, measured between rows.

    Experts get the tokens of all documents, and kernels round by their number. Where this affects most tokens, a few
    may go to other experts and change as much as by a leak: they do not count, because chance decides whether the
    rows, the documents or both show it.
    """
    if experts and leaks[1] > 1e-5:
        return all(leak <= max(5 * other, ROUNDING) for leak, other in zip(leaks[1:], noise[1:], strict=True))
    return all(leak <= 5 * other for leak, other in zip(leaks, noise, strict=True))


def _upper_quartile(shares: torch.Tensor) -> float:
    return float(shares.sort().values[len(shares) * 3 // 4])


def _distances(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The difference of the logits of each token, relative to their spread over the vocabulary."""
    spread = (reference - reference.mean(-1, keepdim=True)).norm(dim=-1)
    distances = (logits - reference).norm(dim=-1) / spread.clamp(min=1e-30)
    return distances.nan_to_num(nan=float("inf"))
