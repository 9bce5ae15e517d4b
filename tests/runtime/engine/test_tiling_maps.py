"""Tiles equal the whole for maps of one and of several channels."""

from types import SimpleNamespace

import numpy as np
import pytest

from spm_runtime.pipelines.tiling import run_tiled


class LocalNetwork:
    """Sums over the neighbourhood of a pixel: a network whose halo is known."""

    def __init__(self, multiple=8, halo=5) -> None:
        self.package = SimpleNamespace(inputs=[SimpleNamespace(id="image")], size_multiple=multiple, halo_px=halo)
        self.halo = halo
        self.calls = 0

    def run(self, inputs):
        image = inputs["image"] + inputs.get("code", np.zeros((1, 1), np.float32)).sum()
        assert image.shape[2] % self.package.size_multiple == image.shape[3] % self.package.size_multiple == 0
        self.calls += 1
        padded = np.pad(image[0, 0], self.halo)
        h, w = image.shape[2:]
        near, far = padded[2 * self.halo :, self.halo : self.halo + w][:h], padded[:h, 2 * self.halo :][:, :w]
        return {
            "confidence": near[None, None],
            "offset_px": np.stack([far, near - far])[None],
            "position_std_px": np.abs(far)[None, None],
            "spacing_px": np.array([[7.0]], np.float32),
        }


@pytest.mark.parametrize("shape", [(40, 64), (53, 71), (9, 130)])
@pytest.mark.parametrize("tile_px", [16, 24])
def test_every_map_equals_that_of_the_whole(rng, shape, tile_px):
    image = rng.normal(size=shape).astype(np.float32)
    network = LocalNetwork()
    whole = run_tiled(network, image, tile_px=1024)
    assert network.calls == 1
    tiled = run_tiled(network, image, tile_px=tile_px)
    assert network.calls > 2
    assert whole["confidence"].shape == whole["position_std_px"].shape == shape
    assert whole["offset_px"].shape == (2, *shape)
    assert tiled.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(tiled[name], value, err_msg=name)


def test_what_is_told_of_the_whole_image_is_told_to_every_tile(rng):
    image = rng.normal(size=(53, 71)).astype(np.float32)
    network = LocalNetwork()
    code = {"code": np.array([[0.5, 0.25]], np.float32)}
    whole = run_tiled(network, image, tile_px=1024, beside=code)
    np.testing.assert_array_equal(whole["confidence"], run_tiled(network, image + np.float32(0.75))["confidence"])
    tiled = run_tiled(network, image, tile_px=24, beside=code)
    for name, value in whole.items():
        np.testing.assert_array_equal(tiled[name], value, err_msg=name)
