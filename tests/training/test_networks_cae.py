"""The patch autoencoders: printed shapes, parameters, ranges; they learn; the context version; whole images without seams."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from spm_kernels import PatchGrid, extract_patches, map_patches
from spm_training.networks.cae import CaeA, CaeB, CaeVae, PatchDenoiser, scaled
from spm_training.simulate.stm_lattices import NOISE_LEVELS, simulate_lattice

NETWORKS = [CaeA, CaeB]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def shapes(module, x):
    """Shapes after every layer that changes them."""
    seen = [tuple(x.shape[1:])]
    for layer in module:
        x = layer(x)
        if tuple(x.shape[1:]) != seen[-1]:
            seen.append(tuple(x.shape[1:]))
    return seen


def test_the_printed_shapes_of_cae_a():
    network = CaeA()
    assert shapes(network.encoder, torch.zeros(2, 1, 17, 17)) == [
        (1, 17, 17), (16, 17, 17), (16, 8, 8), (9, 8, 8), (9, 4, 4), (144,), (10,),
    ]  # fmt: skip
    assert shapes(network.decoder, torch.zeros(2, 10)) == [(10,), (144,), (9, 4, 4), (16, 9, 9), (1, 17, 17)]
    count = [160, 9 * 16 * 9 + 9, 1450, 1584, 9 * 16 * 9 + 16, 401]
    assert sum(p.numel() for p in network.parameters()) == sum(count) == 6212


def test_the_printed_shapes_of_cae_b():
    network = CaeB().eval()
    assert shapes(network.encoder, torch.zeros(2, 1, 16, 16)) == [
        (1, 16, 16), (32, 16, 16), (32, 8, 8), (24, 8, 8), (24, 4, 4), (16, 4, 4), (16, 2, 2), (8, 2, 2), (8, 1, 1), (8,), (10,),
    ]  # fmt: skip
    assert shapes(network.decoder, torch.zeros(2, 10)) == [
        (10,), (96,), (24, 2, 2), (24, 4, 4), (16, 8, 8), (8, 16, 16), (1, 16, 16),
    ]  # fmt: skip
    count = [
        320,
        32 * 24 * 9 + 24,
        24 * 16 * 9 + 16,
        16 * 8 * 9 + 8,
        90,
        1056,
        24 * 24 * 9 + 24,
        24 * 16 * 9 + 16,
        32,
        1160,
        73,
    ]
    assert sum(p.numel() for p in network.parameters()) == sum(count) == 22979
    out = network(torch.randn(50, 1, 16, 16) * 20)
    assert out.min() >= 0
    assert out.max() <= 1


def test_the_variational_network_draws_around_its_means_in_training_alone():
    network = PatchDenoiser(CaeVae())
    assert sum(p.numel() for p in network.parameters()) == 6212 + 1450 == 7662
    torch.nn.init.constant_(network.network.log_variance.weight, 0.0)
    torch.nn.init.constant_(network.network.log_variance.bias, 2 * np.log(0.3))
    decoder = torch.nn.Linear(10, 10, bias=False)  # what is drawn, unchanged
    torch.nn.init.eye_(decoder.weight)
    network.network.decoder = decoder
    patch = torch.randn(1, 1, 17, 17).expand(4000, 1, 17, 17)
    with torch.no_grad():
        drawn, told = network.train()(patch), network.eval()(patch)
    torch.testing.assert_close(drawn.latent, told.latent)  # the means are the same, whatever was drawn
    torch.testing.assert_close(told.denoised, told.latent)
    spread = drawn.denoised - drawn.latent
    assert spread.std(dim=0) == pytest.approx(0.3, rel=0.1)
    assert spread.mean(dim=0) == pytest.approx(0.0, abs=0.03)
    assert np.abs(np.corrcoef(spread.numpy(), rowvar=False) - np.eye(10)).max() < 0.08


@pytest.mark.parametrize("network", NETWORKS)
def test_scaling_is_undone_and_a_constant_image_is_finite(network):
    low, high = network.RANGE
    image = torch.randn(3, 1, 20, 24).double() * torch.tensor([1e-9, 1.0, 1e4]).view(3, 1, 1, 1) + 7
    image[1] = 3.0
    result = scaled(image, low, high)
    torch.testing.assert_close(result.image * result.gain + result.offset, image)
    for one, constant in zip(result.image, (False, True, False), strict=True):
        middle = (low + high) / 2
        assert one.amin().item() == pytest.approx(middle if constant else low, abs=1e-6)
        assert one.amax().item() == pytest.approx(middle if constant else high, abs=1e-6)
    if network is CaeA:  # equation 1 of the report, word for word
        x = image[2]
        torch.testing.assert_close(result.image[2], (2 * x - (x.max() + x.min())) / (x.max() - x.min()))


def patches_of(network, count=2, name="cubic", noise="medium"):
    """Noisy and clean patches of a few images, ``(N, 1, side, side)`` each."""
    pairs = []
    for seed in range(count):
        scene = simulate_lattice(np.random.default_rng(seed), name, shape=(96, 96), noise=NOISE_LEVELS[noise])
        way = scaled(torch.from_numpy(scene.image)[None, None], *network.RANGE)
        clean = (torch.from_numpy(scene.clean)[None, None] - way.offset) / way.gain
        grid = PatchGrid((96, 96), (network.SIDE_PX,) * 2, 4)
        pairs.append([extract_patches(image[0, 0].numpy(), grid)[:, None] for image in (way.image, clean)])
    return [torch.from_numpy(np.concatenate(kind)) for kind in zip(*pairs, strict=True)]


def train(network, noisy, target, steps):
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(noisy), (256,), generator=generator)
        loss = functional.mse_loss(network(noisy[chosen]), target[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("network", NETWORKS)
def test_training_for_seconds_lowers_the_loss(network):
    model = network()
    noisy, _ = patches_of(network)
    losses = train(model, noisy, noisy, 80)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])
    # Below what one number per patch could do, the mean.
    assert np.mean(losses[-5:]) < noisy.var(dim=(1, 2, 3)).mean()


def test_valid_convolutions_on_a_patch_with_context_are_those_of_the_whole_image():
    """The note in the module: 22 × 22 for CAE-A, a grid of 4 pixels, the dense layer as a 4 × 4 convolution."""
    network = CaeA().eval()
    first, second, dense = network.encoder[0], network.encoder[3], network.encoder[7]
    image = torch.randn(1, 1, 62, 70)

    def features(x):
        x = functional.max_pool2d(functional.relu(functional.conv2d(x, first.weight, first.bias)), 2)
        return functional.max_pool2d(functional.relu(functional.conv2d(x, second.weight, second.bias)), 2)

    whole = functional.conv2d(features(image), dense.weight.view(10, 9, 4, 4), dense.bias)
    grid = PatchGrid((62 - 6, 70 - 6), (16, 16), 4)  # the windows; their context lies around them
    assert whole.shape[2:] == (len(grid.rows), len(grid.columns))
    for y, x in grid.origins:
        patch = features(image[:, :, y : y + 22, x : x + 22])
        assert patch.shape[1:] == (9, 4, 4)
        torch.testing.assert_close(dense(patch.flatten(1))[0], whole[0, :, y // 4, x // 4], atol=1e-5, rtol=1e-5)


def test_the_context_of_cae_b():
    x = torch.randn(1, 1, 46, 46)
    for layer in CaeB().encoder[:12]:
        x = functional.conv2d(x, layer.weight, layer.bias) if isinstance(layer, torch.nn.Conv2d) else layer(x)
    assert x.shape == (1, 8, 1, 1)


def seam_ratio(error, grid):
    """Squared steps of an error ``(H, W)`` across the borders of the windows over those elsewhere, rows and columns together."""
    at, elsewhere = [], []
    for axis, origins, side in ((0, grid.rows, grid.side_px[0]), (1, grid.columns, grid.side_px[1])):
        step = np.mean(np.diff(error.astype(float), axis=axis) ** 2, axis=1 - axis)  # step[k]: from pixel k to k + 1
        borders = np.unique(np.concatenate([origins, origins + side])) - 1
        inside = np.zeros(len(step), bool)
        inside[side : len(step) - side] = True  # where as many windows meet as anywhere
        border = np.isin(np.arange(len(step)), borders)
        at.append(step[inside & border])
        elsewhere.append(step[inside & ~border])
    return np.concatenate(at).mean() / np.concatenate(elsewhere).mean()


def test_seams_with_the_identity_and_with_a_network_trained_for_seconds():
    """A whole image through a patch network: no more energy at the borders of the windows than elsewhere."""
    model = CaeA()
    noisy, clean = patches_of(CaeA, count=3, noise="high")
    train(model, noisy, clean, 400)
    model.eval()

    def denoise(patches):
        with torch.no_grad():
            return model(torch.from_numpy(patches)[:, None])[:, 0].numpy()

    flat = np.ones((17, 17), np.float32)
    ratios = {"tapered": [], "flat": []}
    for seed in (77, 78, 79):
        scene = simulate_lattice(np.random.default_rng(seed), "cubic", shape=(129, 145), noise=NOISE_LEVELS["high"])
        way = scaled(torch.from_numpy(scene.image)[None, None], *CaeA.RANGE)
        image = way.image[0, 0].numpy()
        true = (scene.clean - way.offset.item()) / way.gain.item()
        # A stride of 8 leaves pixels between the borders of the windows to compare with; at 4 hardly any are left.
        grid = PatchGrid(image.shape, (17, 17), 8)
        identity = map_patches(image, lambda patches: patches, grid)
        np.testing.assert_allclose(identity, image, atol=1e-6)
        ratios["tapered"].append(seam_ratio(map_patches(image, denoise, grid) - true, grid))
        ratios["flat"].append(seam_ratio(map_patches(image, denoise, grid, weights=flat) - true, grid))
        found = map_patches(image, denoise, PatchGrid(image.shape, (17, 17), 4))
        assert np.mean((found - true) ** 2) < 0.3 * np.mean((image - true) ** 2)
    assert np.mean(ratios["tapered"]) < 1.1, ratios
    assert np.mean(ratios["flat"]) > 1.1 * np.mean(ratios["tapered"]), ratios
