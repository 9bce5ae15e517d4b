"""The U-Net: shapes, size, reach."""

import numpy as np
import pytest
import torch

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
    total += width + 1
    hidden = max(widths[depth] // 4, 8)
    return total + (widths[depth] + 1) * hidden + (hidden + 1) * hidden + hidden + 1


@pytest.mark.parametrize(("width", "depth"), [(16, 4), (4, 3), (2, 1)])
def test_the_number_of_parameters_is_the_one_counted_by_hand(width, depth):
    assert parameters(AtomsNet(width, depth)) == expected_parameters(width, depth)


def test_the_docstring_states_the_default_size():
    assert f"{parameters(AtomsNet()):,} parameters" in AtomsNet.__doc__


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 16, 16), (2, 48, 32)])
def test_shapes(batch, height, width):
    network = AtomsNet(2, 4).eval()
    confidence, spacing = network(torch.zeros(batch, 1, height, width))
    assert network.stride == 16
    assert confidence.shape == (batch, 1, height, width)
    assert spacing.shape == (batch,)
    assert (spacing > 0).all()


def test_a_fresh_network_predicts_a_spacing_inside_the_trained_range():
    torch.manual_seed(0)
    _, spacing = AtomsNet(4, 4).eval()(torch.randn(3, 1, 32, 32))
    assert ((spacing > 3) & (spacing < 32)).all()


def test_outputs_are_float32_under_autocast():
    network = AtomsNet(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        confidence, spacing = network(torch.randn(2, 1, 16, 16))
    assert confidence.dtype == spacing.dtype == torch.float32


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_tiles_with_the_halo_equal_the_whole_and_smaller_ones_do_not(depth):
    torch.manual_seed(depth)
    network = AtomsNet(3, depth).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.abs_()  # nothing cancels, no ReLU cuts: the whole reach shows
    stride = network.stride
    halo = -(-network.halo_px // stride) * stride
    side = 2 * halo + 2 * stride
    image = torch.rand(1, 1, side + 4 * stride, side + 4 * stride)
    inner = slice(halo + 2 * stride, halo + 4 * stride)

    def tile(reach):
        part = slice(inner.start - reach, inner.stop + reach)
        return network(image[..., part, part])[0][..., reach : reach + 2 * stride, reach : reach + 2 * stride]

    with torch.no_grad():
        whole = network(image)[0][..., inner, inner]
        scale = whole.abs().max()
        assert torch.allclose(tile(halo), whole, rtol=0, atol=1e-5 * float(scale))
        assert not torch.allclose(tile(stride), whole, rtol=0, atol=1e-5 * float(scale))


def test_nonsense_sizes_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        AtomsNet(0, 4)


def test_it_learns_a_single_batch():
    """A few steps on one batch bring the loss far down: forward, backward and the head are wired."""
    from spm_training.losses import atoms_loss

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    lattice = np.cos(2 * np.pi * y / 8) * np.cos(2 * np.pi * x / 8)
    image = torch.tensor(np.stack([lattice, rng.normal(size=(32, 32))])[:, None], dtype=torch.float32)
    target = torch.tensor(np.stack([np.clip(lattice, 0, 1), np.zeros((32, 32))])[:, None], dtype=torch.float32)
    spacing = torch.tensor([8.0, 16.0])
    network = AtomsNet(4, 2)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        terms = atoms_loss(
            *network(image), target, torch.ones_like(target), spacing, confidence_weight=1.0, spacing_weight=0.1
        )
        optimiser.zero_grad()
        terms.total.backward()
        optimiser.step()
        losses.append(terms.total.item())
    assert losses[-1] < 0.1 * losses[0]
