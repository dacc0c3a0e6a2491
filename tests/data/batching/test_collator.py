"""Batches: shapes, padding, attention masks, position ids and weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sftcore.data.batching.collator import Collator
from sftcore.data.row_types import Example, Origin


def example(*lengths):
    total = sum(lengths)
    return Example(list(range(1, total + 1)), [-100, *range(2, total + 1)], lengths, (Origin("f", 1),) * len(lengths))


def test_padded_on_the_right():
    batch = {key: value.tolist() for key, value in Collator(9)([example(2), example(4), example(1)]).items()}
    assert batch == {
        "input_ids": [[1, 2, 9, 9], [1, 2, 3, 4], [1, 9, 9, 9]],
        "labels": [[-100, 2, -100, -100], [-100, 2, 3, 4], [-100, -100, -100, -100]],
        "attention_mask": [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]],
    }


@pytest.mark.parametrize("packed", [False, True])
def test_a_label_that_is_the_pad_token_stays(packed):
    """Many models pad with the token that ends a turn."""
    batch = Collator(3, packed)([example(3), example(4)])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 3], [1, 2, 3, 4]]
    assert batch["labels"].tolist() == [[-100, 2, 3, -100], [-100, 2, 3, 4]]
    assert packed or batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_position_ids_restart_at_every_document():
    batch = Collator(9, packed=True)([example(2, 3), example(1, 1, 1)])
    assert "attention_mask" not in batch
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2], [0, 0, 0, 0, 1]]
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 9, 9]]
    assert batch["labels"].tolist() == [[-100, 2, 3, 4, 5], [-100, 2, 3, -100, -100]]


def test_flat_rows_are_laid_end_to_end():
    """The first token of each row loses its label too: now another one stands before it."""
    weighted = replace(example(1, 1, 1), weights=[0.5, 0.5, 0.5])
    batch = Collator(9, packed=True, flat=True, weighted=True)([example(2, 3), weighted])
    assert "attention_mask" not in batch
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0, 0, 0]]
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 1, 2, 3]]
    assert batch["labels"].tolist() == [[-100, 2, 3, 4, 5, -100, 2, 3]]
    assert batch["loss_weights"].tolist() == [[0, 1, 1, 1, 1, 0, 0.5, 0.5]]


def test_weights_are_padded_with_nothing():
    weighted = replace(example(3), weights=[0.0, 0.3, 2.5])
    batch = Collator(9, weighted=True)([weighted, example(4), replace(example(1), weights=[0.0])])
    assert batch["loss_weights"].dtype == torch.float32
    assert torch.equal(batch["loss_weights"], torch.tensor([[0, 0.3, 2.5, 0], [0, 1, 1, 1], [0, 0, 0, 0]]))


def test_weights_are_for_all_batches_or_none():
    assert "loss_weights" not in Collator(9)([example(2)])
    assert Collator(9, weighted=True)([example(2)])["loss_weights"].tolist() == [[0, 1]]


@pytest.mark.parametrize("packed", [False, True])
def test_types_and_shapes(packed):
    batch = Collator(0, packed)([example(3), example(2, 5)])
    assert {(value.dtype, tuple(value.shape)) for value in batch.values()} == {(torch.int64, (2, 7))}
