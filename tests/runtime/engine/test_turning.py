"""A network that looks at an image from several sides."""

from types import SimpleNamespace

import numpy as np
import pytest

from spm_runtime.pipelines.tiling import run_tiled
from spm_runtime.pipelines.turning import run_turned


class Pointer:
    """Points from every pixel to the brightest one, and has a preference for the right-hand side if told so."""

    def __init__(self, *, biased=False) -> None:
        self.package = SimpleNamespace(inputs=[SimpleNamespace(id="image")], size_multiple=1, halo_px=0)
        self.biased = biased
        self.calls = 0

    def run(self, inputs):
        self.calls += 1
        image = inputs["image"][0, 0]
        places = np.indices(image.shape).astype(np.float32)
        brightest = np.array(np.unravel_index(np.argmax(image), image.shape), np.float32)
        confidence = image + (0.1 * places[1] if self.biased else 0)
        return {
            "confidence": confidence[None, None].astype(np.float32),
            "offset_px": (brightest[:, None, None] - places)[None],
            "position_std_px": np.abs(image)[None, None],
            "spacing_px": np.array([[7.0]], np.float32),
        }


@pytest.mark.parametrize("shape", [(12, 12), (7, 15)])
@pytest.mark.parametrize("turns", [1, 2, 3, 4])
def test_a_network_without_a_preferred_direction_says_the_same_from_all_sides(rng, shape, turns):
    image = rng.normal(size=shape).astype(np.float32)
    network = Pointer()
    turned = run_turned(network, image, pixels=turns * image.size)
    assert network.calls == turns
    once = run_tiled(network, image)
    assert turned.keys() == once.keys()
    for name, value in once.items():
        assert turned[name].shape == value.shape
        np.testing.assert_allclose(turned[name], value, atol=1e-6, err_msg=name)


def test_a_preference_for_a_direction_is_averaged_away(rng):
    image = rng.normal(size=(9, 9)).astype(np.float32)
    network = Pointer(biased=True)
    turned = run_turned(network, image)["confidence"] - image
    assert np.ptp(turned) < 1e-5
    assert np.ptp(run_tiled(network, image)["confidence"] - image) > 0.7


def test_a_large_image_is_seen_once(rng):
    network = Pointer()
    run_turned(network, rng.normal(size=(40, 40)).astype(np.float32), pixels=1599)
    assert network.calls == 1
