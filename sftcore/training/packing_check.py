"""Whether documents that share a row leave each other alone: a proof on the model itself."""

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

DOCUMENTS = 4
"""How many documents share a row of the proof."""

LENGTH = 16
"""Tokens taken of each document, and tokens of each whose logits are compared."""

ROUNDING = 0.02
"""How much the rounding of 16 bits may change most tokens of a model of experts, as a share of their logits' size."""


class PackingCheck(TrainerCallback):  # type: ignore[misc]
    """Proves on the model itself, before the first step, that documents in a row do not see each other.

    Two rows of documents are called as training calls them. Each document is changed, in training mode
    with dropout and checkpointing as they are: what is computed of all others must not change. Where
    attention is masked that holds to the bit, in any precision; only experts may round otherwise. Then
    the documents must have the logits that they have alone, which shows that positions start anew, and
    that windows end where they should.
    """

    def __init__(self, rows: PackedSet, collator: Collator) -> None:
        self._documents = rows.documents
        self._longest = int(rows.bins.lengths.argmax())
        self._packed = collator
        self._alone = Collator(collator.pad_token_id)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        exact = _exact(model, args)
        short = [_cut(self._documents[number % len(self._documents)], LENGTH) for number in range(DOCUMENTS)]
        with _mode(model, training=True):
            leaks = self._influence(model, short, packed=True)
            if not leaks[0] <= 1e-5:
                noise = self._influence(model, short, packed=False)
                if not _is_rounding(leaks, noise, experts=not exact and _has_experts(model)):
                    _refuse(model, f"changing one changes the logits of another, by {leaks[0]:.2g} of their size")
        documents = self._reach_over_windows(model, short)
        with _mode(model, training=False):
            alone = [self._logits(model, [[document]], packed=False)[0] for document in documents]
            packed = self._logits(model, [documents, documents[::-1]], packed=True)
        distances = [_distances(*pair) for pair in zip(packed, alone + alone[::-1], strict=True)]
        error = 0.0
        for part in (slice(LENGTH), slice(LENGTH, None)):  # before and behind the end of a window
            tokens = torch.cat([each[part] for each in distances])
            if len(tokens):  # rounding may send a token to another expert, but never half of them
                error = max(error, float(tokens.max() if exact else tokens.median()))
        if not error <= (1e-4 if exact else 0.1):
            _refuse(model, f"one has other logits than alone: they differ by {error:.2g} of their size")

    def _influence(self, model: Any, documents: list[Example], packed: bool) -> tuple[float, float, float]:
        """Return how much the logits of tokens change when documents are changed that they are not in.

        At most; in the upper quartile, since rounding may send a few tokens to other experts; and in that of
        the tokens that come first in their document, which a state that runs along the row reaches above all.
        """
        half, both = len(documents), [*documents, *reversed(documents)]  # borders are elsewhere in the second row
        others = _others(both)
        before = self._logits(model, [both[:half], both[half:]], packed)
        influence: list[torch.Tensor] = []
        for bit in range((len(both) - 1).bit_length()):
            for side in range(2):  # of any two documents, one changes and the other does not in at least one round
                changes = [(index >> bit) % 2 == side for index in range(len(both))]
                now = [others[index] if changed else both[index] for index, changed in enumerate(changes)]
                after = self._logits(model, [now[:half], now[half:]], packed)
                influence += [
                    _distances(new, old)
                    for new, old, changed in zip(after, before, changes, strict=True)
                    if not changed
                ]
        shares = torch.cat(influence)
        first = torch.stack([each[0] for each in influence])
        return float(shares.max()), _upper_quartile(shares), _upper_quartile(first)

    def _logits(self, model: Any, rows: Sequence[list[Example]], packed: bool) -> list[torch.Tensor]:
        """Return the logits of the documents of *rows*, which are equally long.

        Each is float32 of shape (tokens, vocabulary), of its first and last tokens.
        """
        documents = [document for row in rows for document in row]
        batch = self._packed([join(row) for row in rows]) if packed else self._alone(documents)
        inputs = {name: values.to(model.device) for name, values in batch.items() if name in _INPUTS}
        torch.manual_seed(0)  # the same dropout each time
        try:
            logits = model(**inputs).logits
        except (TypeError, ValueError, NotImplementedError) as error:
            if not packed:
                raise
            _refuse(model, f"it cannot take packed rows ({type(error).__name__}: {error})")
        lengths = [len(document.input_ids) for document in documents]
        width = logits.shape[1]
        starts = [sum(lengths[:index]) if packed else index * width for index in range(len(documents))]
        logits = logits.flatten(0, 1)
        return [
            torch.cat([logits[start : start + length][:LENGTH], logits[start : start + length][LENGTH:][-LENGTH:]])
            .float()
            .cpu()
            for start, length in zip(starts, lengths, strict=True)
        ]

    def _reach_over_windows(self, model: Any, short: list[Example]) -> list[Example]:
        """Return *short*, the second as long as the documents allow and a window of the model asks for."""
        config = model.config.get_text_config()
        windows = [getattr(config, name, None) or 0 for name in ("sliding_window", "attention_chunk_size")]
        if not any(windows):
            return short
        longest = self._documents[self._longest]
        return [short[0], _cut(longest, max(windows) + LENGTH), *short[2:]]


_INPUTS = ("input_ids", "attention_mask", "position_ids")


def _refuse(model: Any, why: str) -> NoReturn:
    kernel = getattr(model.config, "_attn_implementation", None)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    raise ConfigError(
        f"data.packing: {type(inner).__name__} with the attention '{kernel}' does not keep packed conversations "
        f"apart: {why}; set data.packing to false, or try another model.attn_implementation"
    )


def _exact(model: Any, args: Any) -> bool:
    """Tell whether everything is computed in float32: a GPU may round to less than the weights have."""
    rounded = args.bf16 or args.fp16 or model.device.type != "cpu"
    return not rounded and all(weight.dtype is torch.float32 for weight in model.parameters())


@contextmanager
def _mode(model: Any, training: bool) -> Iterator[None]:
    """Compute without gradients, and leave mode and chance as they were."""
    before, device = model.training, model.device
    model.train(training)
    cuda = [device] if device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=cuda):
            yield
    finally:
        model.train(before)


def _cut(document: Example, length: int) -> Example:
    """Return the first *length* tokens, at most, of *document*."""
    ids = list(document.input_ids[:length])
    return Example(ids, ids, (len(ids),), document.origins)


def _others(documents: Sequence[Example]) -> list[Example]:
    """Return *documents* with another token in the place of each."""
    tokens = sorted({token for document in documents for token in document.input_ids})
    if len(tokens) == 1:
        tokens = sorted({*tokens, 0, 1})
    other = dict(zip(tokens, [*tokens[1:], tokens[0]], strict=True))
    return [replace(document, input_ids=[other[token] for token in document.input_ids]) for document in documents]


def _has_experts(model: Any) -> bool:
    return any("expert" in name for name, _ in model.named_modules())


def _is_rounding(leaks: Sequence[float], noise: Sequence[float], experts: bool) -> bool:
    """Tell whether *leaks*, as found between documents of a row, may be rounding, as found between rows: *noise*.

    Experts are given what all documents send them, and kernels round by how much that is. Where that reaches
    most tokens, a few may go to other experts, and change as much as by a leak: these do not count, and chance
    decides whether the rows, the documents or both show it.
    """
    if experts and leaks[1] > 1e-5:
        return all(leak <= max(5 * other, ROUNDING) for leak, other in zip(leaks[1:], noise[1:], strict=True))
    return all(leak <= 5 * other for leak, other in zip(leaks, noise, strict=True))


def _upper_quartile(shares: torch.Tensor) -> float:
    return float(shares.sort().values[len(shares) * 3 // 4])


def _distances(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return the difference of each token, as a share of how much its logits differ among each other."""
    spread = (reference - reference.mean(-1, keepdim=True)).norm(dim=-1)
    distances = (logits - reference).norm(dim=-1) / spread.clamp(min=1e-30)
    return distances.nan_to_num(nan=float("inf"))
