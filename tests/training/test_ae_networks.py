"""The patch autoencoders of the UCL report: printed parameters, the version with context, folded decoders."""

import numpy as np
import pytest
import torch
from torch import nn

from spm_kernels import PatchGrid, extract_patches
from spm_training import recipe
from spm_training.networks.ae1 import MARGIN_PX, STRIDES, Ae1, joined, windows_of
from spm_training.networks.ae2 import Ae2
from spm_training.networks.folding import folded


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def keras_count(module):
    """Numbers as Keras counts them: the running means and variances of the batch norms too."""
    buffers = (value for name, value in module.named_buffers() if "running" in name)
    return sum(one.numel() for one in (*module.parameters(), *buffers))


def unsettled(network):
    """Evaluation mode, with batch norms that do something."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            for values in (module.running_var, module.weight):
                nn.init.uniform_(values, 0.5, 2)
    return network.eval()


@pytest.mark.parametrize(
    ("latent", "printed"), [(16, 3_226_129), (32, 3_488_289), (64, 4_012_609), (128, 5_061_249), (256, 7_158_529)]
)
@pytest.mark.parametrize("context", [False, True])
def test_the_printed_parameters_of_the_first(latent, printed, context):
    with torch.device("meta"):
        assert keras_count(Ae1(latent, context=context)) == printed


def layers(*parts):
    """Parameters of the layers that have any."""
    return [count for part in parts for layer in part if (count := keras_count(layer))]


def test_the_printed_parameters_of_every_layer():
    """UCL report, tables 1 and 2."""
    first, second = Ae1(32, context=False), Ae2()
    assert layers(first.trunk, [first.to_latent], first.decoder) == [
        1280, 512, 295_168, 1024, 1_180_160, 262_176, 270_336, 1_179_904, 1024, 295_040, 512, 1153,
    ]  # fmt: skip
    assert layers(second.encoder, second.decoder) == [
        1664, 256, 73_856, 512, 590_336, 2048, 2_097_408, 2056, 2304, 2_105_344, 589_952, 512, 204_864, 256, 577,
    ]  # fmt: skip


@pytest.mark.parametrize("context", [False, True])
def test_the_printed_shapes_of_the_first(context):
    network = Ae1(32, context=context).eval()
    assert network.margin_px == (7 if context else 0)
    side = 32 + 2 * network.margin_px
    assert network.trunk(torch.zeros(2, 1, side, side)).shape == (2, 512, 8, 8)  # the last pool makes it 4 × 4
    latent = network.encode(torch.rand(2, 1, side, side))
    assert latent.shape == (2, 32)
    answer = network.decode(latent)
    assert answer.shape == (2, 1, 32, 32)
    assert 0 < answer.min() <= answer.max() < 1


def test_the_shapes_of_the_second():
    network = Ae2().eval()
    patch = torch.rand(3, 1, 32, 32)
    assert network.encoder[:12](patch).shape == (3, 512, 4, 4)
    assert network.encode(patch).shape == (3, 8)
    assert network(patch).shape == patch.shape


@pytest.mark.parametrize("stride", STRIDES)
def test_a_whole_image_is_encoded_as_its_windows_are(stride):
    """The image at once against naive windows with their context."""
    network = unsettled(Ae1(16))
    height, width = 32 + 24, 32 + 40
    whole = torch.rand(2, 1, height + 2 * MARGIN_PX, width + 2 * MARGIN_PX)
    found = network.encode_image(whole, stride)
    assert found.shape == (2, 16, (height - 32) // stride + 1, (width - 32) // stride + 1)
    with torch.no_grad():
        for row in range(found.shape[2]):
            for column in range(found.shape[3]):
                y, x = stride * row, stride * column
                naive = network.encode(whole[:, :, y : y + 46, x : x + 46])
                torch.testing.assert_close(found[:, :, row, column], naive, atol=1e-5, rtol=1e-5)


def test_the_windows_are_those_of_the_kernels():
    """What the runtime cuts with a margin, mirrored at the border, is what the network with context takes."""
    network = unsettled(Ae1(16))
    image = np.random.default_rng(0).random((40, 48), np.float32)
    windows = extract_patches(image, PatchGrid(image.shape, (32, 32), 8), margin_px=MARGIN_PX)
    padded = np.pad(image, MARGIN_PX, mode="symmetric")
    with torch.no_grad():
        one_by_one = network.encode(torch.from_numpy(windows)[:, None])
        at_once = network.encode_image(torch.from_numpy(padded)[None, None], 8)[0].flatten(1).T
    torch.testing.assert_close(one_by_one, at_once, atol=1e-5, rtol=1e-5)


def test_zero_padding_does_not_share():
    with pytest.raises(ValueError, match="without context"):
        Ae1(16, context=False).encode_image(torch.zeros(1, 1, 64, 64), 8)
    with pytest.raises(ValueError, match="stride_px 6"):
        Ae1(16).encode_image(torch.zeros(1, 1, 64, 64), 6)


def test_images_come_apart_and_together():
    image = torch.rand(3, 1, 64, 96)
    tiles = windows_of(image)
    assert tiles.shape == (18, 1, 32, 32)
    assert torch.equal(tiles[6 + 4], image[1, :, 32:64, 32:64])
    assert torch.equal(joined(tiles, 2, 3), image)


@pytest.mark.parametrize("context", [False, True])
def test_an_image_is_put_together_from_its_windows(context):
    network = unsettled(Ae1(16, context=context))
    margin = network.margin_px
    image = torch.rand(2, 1, 64 + 2 * margin, 32 + 2 * margin)
    with torch.no_grad():
        whole = network(image)
        lower = network.decode(network.encode(image[1:, :, 32:]))
    assert whole.shape == (2, 1, 64, 32)
    torch.testing.assert_close(whole[1:, :, 32:], lower, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("network", [lambda: Ae1(16), Ae2])
def test_a_folded_decoder_gives_the_same_answers(network):
    network = unsettled(network())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    decoder = folded(network.decoder)
    latent = 3 * torch.randn(5, network.latent)
    with torch.no_grad():
        expected = network.decoder(latent)
        torch.testing.assert_close(decoder(latent), expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.01
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    kinds = [type(layer).__name__ for layer in decoder]
    assert not {"Upsample", "BatchNorm2d", "Dropout"} & set(kinds)
    with pytest.raises(ValueError, match="evaluation mode"):
        folded(network.train().decoder)


def test_the_recipe_knows_the_context():
    assert recipe.CONTEXT_PX == MARGIN_PX


def test_batch_norms_can_keep_what_they_know():
    torch.manual_seed(0)
    images = torch.rand(2, 1, 46, 46)
    for learns in (True, False):
        network = Ae1(8, batch_statistics=learns)
        before = network.trunk[1].running_mean.clone()
        network.train()(images)
        assert torch.equal(before, network.trunk[1].running_mean) != learns
        assert network.dropout.training


def test_a_window_is_learned_in_seconds():
    network = Ae1(16, context=False, dropout=0.0)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    windows = torch.stack([0.5 + 0.4 * torch.sin(x / 3 + n) * torch.cos(y / (2 + n)) for n in range(3)])[:, None]
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(25):
        loss = torch.nn.functional.mse_loss(network(windows), windows)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    # Below what a constant could do.
    assert min(losses[-5:]) < 0.7 * windows.var(dim=(1, 2, 3)).mean() < losses[0] * 2
