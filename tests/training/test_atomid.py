"""The paper's network and its loss, as printed."""

import numpy as np
import pytest
import torch

from spm_runtime.errors import ParameterError
from spm_training.cost import cost_of
from spm_training.networks.atomid import AtomidNet, AtomidOutput
from spm_training.recipe import load_recipe
from spm_training.tasks import task_of
from spm_training.tasks.atomid import atomid_loss


def test_shapes_and_size():
    network = AtomidNet().eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 7_844_770
    with torch.no_grad():
        output = network(torch.randn(2, 1, 32, 48))
    assert output.confidence.shape == (2, 1, 32, 48)
    assert output.spacing_px.shape == (2,)


def test_a_pixel_looks_no_farther_than_the_halo():
    torch.manual_seed(1)
    network = AtomidNet(2, 2).double().eval()
    image = torch.randn(1, 1, 96, 96, dtype=torch.float64)
    changed = image.clone()
    changed[:, :, 48, 48] += 10.0
    with torch.no_grad():
        touched = (network(image).confidence != network(changed).confidence)[0, 0].nonzero()
    reach = int((touched - 48).abs().max())
    assert 0 < reach <= network.halo_px


def test_the_loss_is_the_printed_one(rng):
    """Written out image by image: half the mean of lambda times a sum over pixels, and a squared error in pixels."""
    f, y = rng.normal(size=(3, 1, 4, 5)), rng.uniform(size=(3, 1, 4, 5))
    g, s = rng.uniform(5, 20, 3), rng.uniform(5, 20, 3)
    expected = 0.0
    for i in range(3):
        expected += 0.1 * sum((f[i, 0, r, c] - y[i, 0, r, c]) ** 2 for r in range(4) for c in range(5))
        expected += (g[i] - s[i]) ** 2
    expected /= 2 * 3
    found = atomid_loss(
        AtomidOutput(torch.from_numpy(f), torch.from_numpy(g)),
        target=torch.from_numpy(y),
        target_spacing_px=torch.from_numpy(s),
        confidence_weight=0.1,
        spacing_weight=1.0,
    )
    assert float(found["loss"]) == pytest.approx(expected)
    assert float(found["spacing"]) == pytest.approx(np.mean((g - s) ** 2))


def test_a_position_weight_is_refused():
    with pytest.raises(ParameterError, match=r"loss\.position_weight 0\.1: the network atomid has no position"):
        task_of(load_recipe("atomid", overrides=["loss.position_weight=0.1"]))


def test_the_budget_of_the_printed_training_is_counted():
    """About 6.7e10 operations per crop of 256², forward and backward; 200 epochs of 2592 crops."""
    cost = cost_of(load_recipe("atomid"))
    assert cost.flop_per_step / 8 == pytest.approx(7e10, rel=0.1)
    assert cost.flop_total == pytest.approx(200 * 2592 * 7e10, rel=0.15)
