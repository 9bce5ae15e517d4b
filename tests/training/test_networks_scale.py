"""The network that reads the scale: symmetric in the angle, covariant along the period."""

import pytest
import torch

from spm_runtime.pipelines.spectrum import ANGLES, BINS, CHANNELS
from spm_training.networks.scale import ScaleNet

#: How far a logit looks along the period: half of 5, 3 and 3 cells, and 3 · (1 + 2 + 4 + 8).
REACH = 2 + 1 + 1 + 45


@pytest.fixture(scope="module")
def network():
    """Fresh weights, and statistics of the batch norms that are not the neutral ones."""
    torch.manual_seed(0)
    network = ScaleNet()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(2, CHANNELS, BINS, ANGLES))
    return network.eval().double()


@pytest.fixture
def spectrum():
    torch.manual_seed(1)
    return torch.randn(2, CHANNELS, BINS, ANGLES, dtype=torch.float64)


def logits(network, spectrum):
    with torch.no_grad():
        return network(spectrum)


def test_size_and_shape(network, spectrum):
    assert sum(parameter.numel() for parameter in network.parameters()) == 83_065
    assert "83,065 parameters" in ScaleNet.__doc__
    assert logits(network, spectrum).shape == (2, BINS)
    assert logits(network, spectrum).dtype == torch.float32
    assert ScaleNet(4)(spectrum.float()).shape == (2, BINS)


@pytest.mark.parametrize("turn", [1, 7, ANGLES // 2])
def test_a_turned_image_has_the_same_scale(network, spectrum, turn):
    turned = torch.roll(spectrum, turn, dims=3)
    assert not torch.equal(turned, spectrum)
    torch.testing.assert_close(logits(network, turned), logits(network, spectrum), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shift", [1, 10])
def test_a_magnified_image_has_the_scale_moved_along(network, spectrum, shift):
    """Content that moves along the axis of the period takes the logits along, but for the ends, where new content enters."""
    moved = logits(network, torch.roll(spectrum, shift, dims=2))
    inner = slice(REACH + shift, BINS - REACH)
    assert len(range(BINS)[inner]) > 5
    torch.testing.assert_close(
        moved[:, inner], logits(network, spectrum)[:, inner.start - shift : inner.stop - shift], rtol=1e-5, atol=1e-6
    )


def test_content_beyond_the_reach_changes_nothing(network, spectrum):
    changed = spectrum.clone()
    changed[:, :, 60] += 1.0
    difference = (logits(network, changed) - logits(network, spectrum)).abs().sum(dim=0)
    touched = torch.nonzero(difference > 0)
    assert 60 in touched
    assert (touched - 60).abs().max() <= REACH


def test_orientation_counts_for_nothing_but_anisotropy_does(network):
    """A ring and a spot of the same power are told apart."""
    ring, spot = (torch.zeros(1, CHANNELS, BINS, ANGLES, dtype=torch.float64) for _ in range(2))
    ring[:, :2, 50] = 1.0
    spot[:, :2, 50, 4] = ANGLES
    assert not torch.allclose(logits(network, ring), logits(network, spot), atol=1e-3)
