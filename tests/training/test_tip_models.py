"""The hackathon's three networks: sizes, what they say, and how far they look."""

import pytest
import torch

from spm_training.networks import tip_models
from spm_training.networks.tip_models import TipModel1, TipModel2, TipModel3


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


SIZES = {TipModel1: 1_732_897, TipModel2: 32_833, TipModel3: 6_745_121}
SMALL = [lambda: TipModel1(2, 2), lambda: TipModel2(4), lambda: TipModel3(2, 3), lambda: TipModel3(3, 1)]


def alive(network):
    """Nothing cancels, no ReLU cuts."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.abs_()
    return network.eval()


@pytest.mark.parametrize("kind", SIZES)
def test_the_number_of_parameters_is_the_one_that_is_printed(kind):
    """33 thousand and 6.7 million are the paper's."""
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in kind().parameters())
    assert count == SIZES[kind]
    assert f"{count:,}" in tip_models.__doc__


def test_the_paper_s_own_figures_are_met():
    assert round(SIZES[TipModel2], -3) == 33_000
    assert round(SIZES[TipModel3], -5) == 6_700_000


@pytest.mark.parametrize("make", SMALL)
def test_shapes_of_any_multiple_of_the_stride(make):
    network = make().eval()
    for rows, columns in ((1, 1), (3, 2)):
        image = torch.randn(2, 1, rows * network.stride, columns * network.stride)
        assert network(image).shape == image.shape


@pytest.mark.parametrize("make", SMALL)
def test_answers_are_float32_under_autocast(make):
    """Not only by type: bfloat16 would know no more than 128 heights between 1 and 2."""
    network = alive(make())
    torch.nn.init.constant_(network.head.bias, 1.5)
    with torch.autocast("cpu", torch.bfloat16):
        answer = network(torch.randn(2, 1, 32, 32))
    assert answer.dtype == torch.float32
    assert (answer.bfloat16().float() != answer).float().mean() > 0.5


def test_model_1_learns_what_the_tip_added():
    network = TipModel1(2, 2).eval()
    image = torch.randn(2, 1, 16, 24)
    torch.testing.assert_close(image - network(image), network.added(image))
    for parameter in network.head.parameters():
        torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(network(image), image)


@pytest.mark.parametrize("make", [lambda: TipModel1(2, 2), lambda: TipModel2(4)])
def test_models_1_and_2_have_no_skip_links(make):
    """Nothing of an image reaches their last layers but through the bottleneck."""
    network = make().eval()
    seen = []
    layers = network.body if isinstance(network, TipModel1) else network.decoder
    start = next(layer for layer in layers if isinstance(layer, torch.nn.ConvTranspose2d))
    start.register_forward_hook(lambda _, __, out: seen.append(torch.zeros_like(out)) or seen[-1])
    one, two = torch.randn(2, 1, 1, 16, 16)
    said = network.added if isinstance(network, TipModel1) else network
    torch.testing.assert_close(said(one), said(two))
    assert len(seen) == 2


def test_model_3_has_skip_links():
    network = TipModel3(2, 2).eval()
    network.bottleneck.register_forward_hook(lambda _, __, out: torch.zeros_like(out))
    one, two = torch.randn(2, 1, 1, 16, 16)
    assert not torch.allclose(network(one), network(two))


@pytest.mark.parametrize("kind", [TipModel1, TipModel2, TipModel3])
def test_nonsense_sizes_are_refused(kind):
    with pytest.raises(ValueError, match="at least"):
        kind(0)


@pytest.mark.parametrize("make", [*SMALL, lambda: TipModel1(2, 3)])
def test_a_pixel_beyond_the_halo_changes_nothing_and_the_halo_is_not_too_wide(make):
    network = alive(make()).double()  # what is far stays exactly equal only in double precision
    stride, halo = network.stride, network.halo_px
    side = 2 * (-(-halo // stride) + 1) * stride
    image = torch.rand(1, 1, side, side).double()
    before = network(image)
    farthest = 0
    for place in range(side // 2, side // 2 + stride):  # every phase of the grid of the max-pools
        changed = image.clone()
        changed[0, 0, place, place] += 100.0
        touched = torch.nonzero((network(changed) - before)[0, 0].abs() > 0)
        distance = int((touched - place).abs().max())
        assert distance <= halo
        farthest = max(farthest, distance)
    assert farthest > halo - 2 * stride
