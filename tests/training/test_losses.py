"""The loss against numbers worked out by hand."""

import math

import pytest
import torch

from spm_training.losses import atoms_loss


def loss(confidence, spacing, target, weight, true_spacing, a=1.0, b=0.1):
    return atoms_loss(confidence, spacing, target, weight, true_spacing, confidence_weight=a, spacing_weight=b)


def test_values_by_hand():
    target = torch.zeros(2, 1, 2, 2)
    target[0, 0, 0, 0] = 1.0
    confidence = torch.full((2, 1, 2, 2), 0.5)
    weight = torch.ones(2, 1, 2, 2)
    weight[1] = 0.0
    terms = loss(confidence, torch.tensor([10.0, 20.0]), target, weight, torch.tensor([10.0, 10.0]), a=2.0, b=0.5)
    assert float(terms.confidence) == pytest.approx(0.25 * 4 / 8)
    assert float(terms.spacing) == pytest.approx(math.log(2) ** 2 / 2)
    assert float(terms.total) == pytest.approx(0.5 * (2.0 * 0.125 + 0.5 * math.log(2) ** 2 / 2))


def test_a_perfect_prediction_costs_nothing():
    target = torch.rand(3, 1, 8, 8)
    spacing = torch.tensor([4.0, 9.0, 30.0])
    assert float(loss(target, spacing, target, torch.ones_like(target), spacing).total) == 0.0


def test_only_the_ratio_of_the_spacings_counts():
    target = torch.zeros(1, 1, 4, 4)
    near = loss(target, torch.tensor([5.5]), target, target, torch.tensor([5.0]))
    far = loss(target, torch.tensor([33.0]), target, target, torch.tensor([30.0]))
    assert float(near.total) == pytest.approx(float(far.total), rel=1e-5)


def test_no_gradient_where_the_weight_is_zero():
    confidence = torch.rand(1, 1, 4, 4, requires_grad=True)
    weight = torch.ones(1, 1, 4, 4)
    weight[..., :2] = 0.0
    spacing = torch.tensor([5.0])
    loss(confidence, spacing, torch.zeros(1, 1, 4, 4), weight, spacing).total.backward()
    assert (confidence.grad[..., :2] == 0).all()
    assert (confidence.grad[..., 2:] > 0).all()


def test_the_mean_of_equal_shares_is_the_loss_of_the_batch():
    torch.manual_seed(0)
    confidence, target, weight = (torch.rand(4, 1, 6, 6) for _ in range(3))
    spacing, truth = torch.rand(4) * 10 + 3, torch.rand(4) * 10 + 3
    whole = loss(confidence, spacing, target, weight, truth).total
    halves = [
        loss(*(tensor[part] for tensor in (confidence, spacing, target, weight, truth))).total
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert float(sum(halves) / 2) == pytest.approx(float(whole), rel=1e-6)
