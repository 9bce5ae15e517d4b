"""The finder: shapes, size, symmetry, reach, and that a checkpoint of the default fits."""

import math

import numpy as np
import pytest
import torch

from spm_training.losses import atoms_loss
from spm_training.networks.atoms import AtomsNet


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def expected_parameters(width, depth):
    """Counted by hand: convolutions without bias, two numbers per batch-norm channel."""
    widths = [width * 2**level for level in range(depth + 1)]

    def block(a, b):
        return 9 * a * b + 2 * b + 9 * b * b + 2 * b

    total = block(1, widths[0]) + sum(block(widths[i], widths[i + 1]) for i in range(depth))
    for level in range(depth):
        total += 4 * widths[level + 1] * widths[level] + widths[level]  # transposed convolution
        total += block(2 * widths[level], widths[level])
    total += width + 1  # confidence
    total += 9 * width * width + width + 3 * width + 3  # position
    hidden = max(widths[depth] // 4, 8)
    return total + (widths[depth] + 1) * hidden + (hidden + 1) * hidden + hidden + 1


@pytest.mark.parametrize(("width", "depth"), [(16, 4), (4, 3), (2, 1)])
def test_the_number_of_parameters_is_the_one_counted_by_hand(width, depth):
    assert parameters(AtomsNet(width, depth)) == expected_parameters(width, depth)


def test_the_docstring_states_the_default_size():
    assert parameters(AtomsNet()) == 1_965_333
    assert "1,965,333 parameters" in AtomsNet.__doc__


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 16, 16), (2, 48, 32)])
def test_shapes(batch, height, width):
    network = AtomsNet(2, 4).eval()
    output = network(torch.zeros(batch, 1, height, width))
    assert network.stride == 16
    assert output.confidence.shape == output.log_std.shape == (batch, 1, height, width)
    assert output.offset.shape == (batch, 2, height, width)
    assert output.spacing_px.shape == (batch,)
    assert (output.spacing_px > 0).all()


def test_a_fresh_network_predicts_a_spacing_inside_the_trained_range():
    torch.manual_seed(0)
    spacing = AtomsNet(4, 4).eval()(torch.randn(3, 1, 32, 32)).spacing_px
    assert ((spacing > 4.5) & (spacing < 11)).all()


def test_no_position_is_surer_or_vaguer_than_a_position_can_be():
    network = AtomsNet(2, 2).eval()
    for bias, limit_px in ((100.0, math.exp(1.4)), (-100.0, math.exp(-4.5))):
        torch.nn.init.constant_(network.position_head[-1].bias, bias)
        std = network(torch.randn(1, 1, 16, 16)).log_std.exp()
        assert torch.allclose(std, torch.full_like(std, limit_px))


def test_outputs_are_float32_under_autocast():
    network = AtomsNet(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(torch.randn(2, 1, 16, 16))
    assert {one.dtype for one in output} == {torch.float32}


def test_nonsense_sizes_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        AtomsNet(0, 4)


def reaching(depth, width=3):
    """A network whose whole reach shows: nothing cancels, no ReLU cuts."""
    torch.manual_seed(depth)
    network = AtomsNet(width, depth).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.abs_()
    return network


def maps(network, image):
    """All maps as one tensor ``(4, H, W)``, in double precision so that what is far stays exactly equal."""
    with torch.no_grad():
        output = network.double()(image.double())
    return torch.cat((output.confidence, output.offset, output.log_std), dim=1)[0]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_shift_by_the_stride_shifts_the_maps_and_one_by_less_does_not(depth):
    network = reaching(depth)
    torch.nn.init.zeros_(network.position_head[-1].bias)
    stride, halo = network.stride, network.halo_px
    image = torch.rand(1, 1, *(2 * -(-halo // stride) * stride + 6 * stride,) * 2)
    whole = maps(network, image)
    margin = -(-halo // stride) * stride + 2 * stride
    inner = slice(margin, -margin)

    def shifted(by):
        moved = maps(network, torch.roll(image, (by, 2 * by), dims=(2, 3)))
        return torch.roll(moved, (-by, -2 * by), dims=(1, 2))[:, inner, inner]

    assert whole[:, inner, inner].numel() > 0
    assert torch.allclose(shifted(stride), whole[:, inner, inner], rtol=1e-9)
    assert not torch.allclose(shifted(stride // 2), whole[:, inner, inner], rtol=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_pixel_beyond_the_halo_changes_nothing_and_the_halo_is_not_too_wide(depth):
    network = reaching(depth)
    stride, halo = network.stride, network.halo_px
    side = 2 * (-(-halo // stride) + 1) * stride
    image = torch.rand(1, 1, side, side)
    before = maps(network, image)
    farthest = 0
    for place in range(side // 2, side // 2 + stride):  # every phase of the grid of the max-pools
        changed = image.clone()
        changed[0, 0, place, place] += 100.0
        touched = torch.nonzero((maps(network, changed) - before).abs().sum(dim=0) > 0)
        distance = (touched - place).abs().max()
        assert distance <= halo
        farthest = max(farthest, int(distance))
    assert farthest > halo - 2 * stride


@pytest.mark.parametrize("depth", [1, 2])
def test_tiles_with_the_halo_equal_the_whole_and_smaller_ones_do_not(depth):
    network = reaching(depth)
    stride = network.stride
    halo = -(-network.halo_px // stride) * stride
    side = 2 * halo + 2 * stride
    image = torch.rand(1, 1, side + 4 * stride, side + 4 * stride)
    inner = slice(halo + 2 * stride, halo + 4 * stride)

    def tile(reach):
        part = slice(inner.start - reach, inner.stop + reach)
        return maps(network, image[..., part, part])[..., reach : reach + 2 * stride, reach : reach + 2 * stride]

    whole = maps(network, image)[..., inner, inner]
    assert torch.allclose(tile(halo), whole, rtol=1e-9)
    assert not torch.allclose(tile(stride), whole, rtol=1e-9)


def test_the_spacing_is_read_from_the_whole_image():
    torch.manual_seed(0)
    network = AtomsNet(4, 2).eval()
    image = torch.rand(1, 1, 128, 128)
    changed = image.clone()
    changed[..., 120:, 120:] += 10
    with torch.no_grad():
        assert network(image).spacing_px != network(changed).spacing_px


def test_it_learns_a_single_batch():
    """Some steps on one batch bring every term far down: forward, backward and the heads are wired."""
    torch.manual_seed(0)
    y, x = np.mgrid[:32, :32]
    true_yx = np.stack([np.rint(y / 8) * 8, np.rint(x / 8) * 8])
    offset = torch.tensor(true_yx - np.stack([y, x]), dtype=torch.float32)[None]
    target = (-0.5 * offset.square().sum(dim=1, keepdim=True) / 1.5**2).exp()
    spacing = torch.tensor([8.0])
    network = AtomsNet(4, 2)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(80):
        terms = atoms_loss(
            network(target),
            target=target,
            weight=torch.ones_like(target),
            offset=offset,
            target_spacing_px=spacing,
            confidence_weight=1.0,
            position_weight=1.0,
            spacing_weight=0.1,
        )
        optimiser.zero_grad()
        terms.total.backward()
        optimiser.step()
        losses.append([float(one.detach()) for one in (terms.confidence, terms.position, terms.spacing)])
    first, last = losses[0], losses[-1]
    assert last[0] < 0.2 * first[0]
    assert last[1] < 0.1 * first[1]
    assert last[2] < 0.01
