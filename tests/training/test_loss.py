"""The loss: a mean over trained tokens, weighted by their loss weights."""

from __future__ import annotations

import pytest
import torch

from sftcore.training.loss import TokenMeanLoss

LABELS = torch.tensor([[-100, -100, 3, 1, 4], [-100, 2, 2, -100, -100]])
WEIGHTS = torch.tensor([[0.0, 0.0, 0.3, 1.0, 0.3], [0.0, 2.0, 1.0, 0.0, 0.0]])
PREDICTED = [(0, 2), (0, 3), (0, 4), (1, 1), (1, 2)]
"""Where the labels are that count."""


@pytest.fixture
def logits():
    return torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)


def loss_and_gradient(logits, weights, smoothing=0.0, **kwargs):
    logits.grad = None
    loss = TokenMeanLoss(smoothing)({"logits": logits}, LABELS, weights=weights, **kwargs)
    loss.backward()
    return loss.detach(), logits.grad.clone()


def by_hand(logits, weights, smoothing=0.0):
    """Compute the weighted mean, and its gradient as the softmax less the target, in float64."""
    loss, gradient = 0.0, torch.zeros(logits.shape, dtype=torch.float64)
    whole = sum(float(weights[place]) for place in PREDICTED)
    for row, at in PREDICTED:
        logprobs = logits[row, at - 1].detach().double().log_softmax(-1)
        target = torch.full((6,), smoothing / 6, dtype=torch.float64)
        target[LABELS[row, at]] += 1 - smoothing
        share = float(weights[row, at]) / whole
        loss -= share * float(target @ logprobs)
        gradient[row, at - 1] = share * (logprobs.exp() - target)
    return loss, gradient


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [WEIGHTS, None], ids=["weights", "no weights"])
def test_loss_and_gradient_match_a_computation_by_hand(logits, weights, smoothing):
    loss, gradient = loss_and_gradient(logits, weights, smoothing)
    expected = by_hand(logits, torch.ones(2, 5) if weights is None else weights, smoothing)
    assert float(loss) == pytest.approx(expected[0], rel=1e-6)
    torch.testing.assert_close(gradient.double(), expected[1], rtol=1e-6, atol=1e-7)


def test_only_the_ratio_of_loss_weights_counts(logits):
    for one, other in [(WEIGHTS, 2 * WEIGHTS), (None, LABELS.ne(-100) * 0.1)]:
        for this, that in zip(loss_and_gradient(logits, one), loss_and_gradient(logits, other), strict=True):
            torch.testing.assert_close(this, that, rtol=1e-6, atol=1e-7)


def test_a_loss_weight_changes_the_gradient_of_its_token_alone(logits):
    """The step divides by the same number, so that no other token's share changes."""
    before = loss_and_gradient(logits, WEIGHTS, num_items_in_batch=4.6)[1]
    heavier = WEIGHTS.clone()
    heavier[0, 2] = 1.0  # predicted by the logits of the token before
    after = loss_and_gradient(logits, heavier, num_items_in_batch=4.6)[1]
    changed = (after - before).abs().amax(-1) > 1e-6
    assert changed.nonzero().tolist() == [[0, 1]]
    torch.testing.assert_close(after[0, 1], before[0, 1] / 0.3)


def test_the_loss_is_divided_by_num_items_in_batch(logits):
    whole = TokenMeanLoss()({"logits": logits}, LABELS, weights=WEIGHTS)
    parts = [
        TokenMeanLoss()({"logits": logits[[row]]}, LABELS[[row]], torch.tensor(4.6), WEIGHTS[[row]]) for row in range(2)
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)


@pytest.mark.parametrize("weights", [WEIGHTS, None], ids=["weights", "no weights"])
def test_the_evaluation_loss_is_a_mean_over_all_batches(logits, weights):
    loss = TokenMeanLoss()
    with torch.no_grad():
        expected = float(loss({"logits": logits}, LABELS, weights=weights))
        assert loss.pop_evaluated()[1] == pytest.approx(5 if weights is None else 4.6)
        for row in range(2):
            loss({"logits": logits[[row]]}, LABELS[[row]], weights=None if weights is None else weights[[row]])
    total, weight = loss.pop_evaluated()
    assert total / weight == pytest.approx(expected, rel=1e-6)
    assert loss.pop_evaluated() == (0, 0)


def test_training_does_not_count_in_the_evaluation_loss(logits):
    loss = TokenMeanLoss()
    loss({"logits": logits}, LABELS, weights=WEIGHTS)
    assert loss.pop_evaluated() == (0, 0)


@pytest.mark.parametrize("weights", [torch.zeros(2, 5), None], ids=["weights", "no weights"])
def test_the_loss_is_zero_without_trained_tokens(logits, weights):
    assert TokenMeanLoss()({"logits": logits}, torch.full((2, 5), -100), weights=weights).item() == 0


@pytest.mark.parametrize("weights", [WEIGHTS, None], ids=["weights", "no weights"])
def test_infinite_logits_of_masked_tokens_do_not_change_the_loss(logits, weights):
    expected = loss_and_gradient(logits, weights)[0]
    with torch.no_grad():
        logits[1, 3, 0] = -torch.inf
    torch.testing.assert_close(loss_and_gradient(logits, weights)[0], expected)
