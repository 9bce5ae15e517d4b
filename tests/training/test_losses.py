"""The loss against numbers worked out by hand and against what its terms mean."""

import math

import pytest
import torch

from spm_training.losses import atoms_loss
from spm_training.networks.atoms import AtomsOutput


def output_of(confidence, *, offset=None, log_std=None, spacing=None):
    """What a network says; zeros where a test does not care."""
    batch, _, height, width = confidence.shape
    return AtomsOutput(
        confidence,
        torch.zeros(batch, 2, height, width) if offset is None else offset,
        torch.zeros(batch, 1, height, width) if log_std is None else log_std,
        torch.full((batch,), 7.0) if spacing is None else spacing,
    )


def loss(output, *, target, weight=None, offset=None, spacing=None, weights=(1.0, 1.0, 1.0)):
    confidence, position, scale = weights
    return atoms_loss(
        output,
        target=target,
        weight=torch.ones_like(target) if weight is None else weight,
        offset=torch.zeros_like(output.offset) if offset is None else offset,
        target_spacing_px=torch.full((len(target),), 7.0) if spacing is None else spacing,
        confidence_weight=confidence,
        position_weight=position,
        spacing_weight=scale,
    )


def test_values_by_hand():
    target = torch.zeros(2, 1, 2, 2)
    target[0, 0, 0, 0] = 1.0
    weight = torch.ones(2, 1, 2, 2)
    weight[1] = 0.0
    offset = torch.zeros(2, 2, 2, 2)
    offset[0, :, 0, 0] = torch.tensor([3.0, 4.0])
    output = output_of(
        torch.full((2, 1, 2, 2), 0.5),
        log_std=torch.full((2, 1, 2, 2), math.log(2)),
        spacing=torch.tensor([10.0, 20.0]),
    )
    terms = loss(
        output, target=target, weight=weight, offset=offset, spacing=torch.tensor([10.0, 10.0]), weights=(2.0, 3.0, 0.5)
    )
    confidence, position, spacing = 0.25 * 4 / 8, (25 / (2 * 4) + 2 * math.log(2)) / 8, math.log(2) ** 2 / 2
    assert float(terms.confidence) == pytest.approx(confidence)
    assert float(terms.position) == pytest.approx(position)
    assert float(terms.spacing) == pytest.approx(spacing)
    assert float(terms.total) == pytest.approx(0.5 * (2.0 * confidence + 0.5 * spacing) + 3.0 * position)


def test_a_perfect_prediction_of_confidence_and_spacing_costs_nothing():
    target = torch.rand(3, 1, 8, 8)
    spacing = torch.tensor([4.0, 9.0, 30.0])
    terms = loss(output_of(target, spacing=spacing), target=target, spacing=spacing, weights=(1.0, 0.0, 1.0))
    assert float(terms.total) == 0.0


def test_only_the_ratio_of_the_spacings_counts():
    target = torch.zeros(1, 1, 4, 4)
    terms = [
        loss(output_of(target, spacing=torch.tensor([1.1 * true])), target=target, spacing=torch.tensor([true])).spacing
        for true in (5.0, 30.0)
    ]
    assert float(terms[0]) == pytest.approx(math.log(1.1) ** 2, rel=1e-4)
    assert float(terms[1]) == pytest.approx(float(terms[0]), rel=1e-4)


@pytest.mark.parametrize("error_px", [0.05, 0.4, 2.0])
def test_the_likelihood_is_best_where_the_stated_deviation_is_that_of_the_error(error_px):
    """Errors of a known standard deviation per axis: the term over ln σ̂ has its minimum, and a zero gradient, there."""
    generator = torch.Generator().manual_seed(1)
    errors = torch.randn(4, 2, 32, 32, generator=generator)
    errors *= error_px / errors.square().mean().sqrt()
    target = torch.ones(4, 1, 32, 32)

    def term(log_std):
        return loss(
            output_of(target, log_std=torch.zeros_like(target) + log_std), target=target, offset=errors
        ).position

    truth = torch.tensor(math.log(error_px), requires_grad=True)
    at_truth = term(truth)
    at_truth.backward()
    assert float(truth.grad) == pytest.approx(0.0, abs=1e-4)
    # Gaussian density in two dimensions without its 2π: 1 + 2 ln σ.
    at_truth, truth = at_truth.detach(), truth.detach()
    assert float(at_truth) == pytest.approx(1 + 2 * math.log(error_px), abs=1e-4)
    for wrong in (-1.0, -0.1, 0.1, 1.0):
        excess = math.exp(-2 * wrong) - 1 + 2 * wrong
        assert float(term(truth + wrong) - at_truth) == pytest.approx(excess, abs=2e-4)


def test_the_position_is_pulled_onto_the_column_the_harder_the_surer_it_is():
    target = torch.ones(1, 1, 1, 2)
    said = torch.zeros(1, 2, 1, 2, requires_grad=True)
    log_std = torch.tensor([[[[0.0, math.log(0.5)]]]])
    offset = torch.ones(1, 2, 1, 2)
    loss(output_of(target, offset=said, log_std=log_std), target=target, offset=offset).total.backward()
    assert (said.grad < 0).all()
    assert float(said.grad[0, 0, 0, 1] / said.grad[0, 0, 0, 0]) == pytest.approx(4.0)


def test_no_gradient_where_the_weight_is_zero_and_none_of_the_position_away_from_columns():
    confidence = torch.rand(1, 1, 4, 4, requires_grad=True)
    said = torch.rand(1, 2, 4, 4, requires_grad=True)
    log_std = torch.zeros(1, 1, 4, 4, requires_grad=True)
    weight, target = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    weight[..., :2] = 0.0
    target[..., ::2] = 0.5
    loss(output_of(confidence, offset=said, log_std=log_std), target=target, weight=weight).total.backward()
    assert (confidence.grad[..., :2] == 0).all()
    assert (confidence.grad[..., 2:] != 0).all()
    for gradient in (said.grad, log_std.grad):
        assert (gradient[..., [0, 1, 3]] == 0).all()
        assert (gradient[..., 2] != 0).all()


def test_the_mean_of_equal_shares_is_the_loss_of_the_batch():
    torch.manual_seed(0)
    confidence, target, weight, log_std = (torch.rand(4, 1, 6, 6) for _ in range(4))
    said, offset = (torch.randn(4, 2, 6, 6) for _ in range(2))
    spacing, truth = torch.rand(4) * 10 + 3, torch.rand(4) * 10 + 3

    def of(part):
        output = AtomsOutput(confidence[part], said[part], log_std[part], spacing[part])
        return loss(output, target=target[part], weight=weight[part], offset=offset[part], spacing=truth[part]).total

    halves = [of(slice(0, 2)), of(slice(2, 4))]
    assert float(sum(halves) / 2) == pytest.approx(float(of(slice(0, 4))), rel=1e-6)
