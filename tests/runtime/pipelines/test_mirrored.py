"""A network that looks at an image and its mirror images."""

from types import SimpleNamespace

import numpy as np
import pytest

from spm_runtime.pipelines.tiling import run_tiled
from spm_runtime.pipelines.turning import run_mirrored


class Leaning:
    """Each channel as a map of its own, brighter towards one side by `lean`; a sum along rows, which a turn would change."""

    def __init__(self, lean=0.0) -> None:
        self.package = SimpleNamespace(inputs=[SimpleNamespace(id="image")], size_multiple=1, halo_px=0)
        self.lean = lean
        self.seen = []

    def run(self, inputs):
        image = inputs["image"]
        assert image.flags.c_contiguous
        self.seen.append(image[0])
        ramp = self.lean * np.arange(image.shape[3], dtype=np.float32)
        return {
            "maps": image + ramp,
            "rows": np.broadcast_to(image[:, :1].sum(axis=3, keepdims=True), image[:, :1].shape),
        }


@pytest.mark.parametrize("shape", [(6, 9), (3, 6, 9)])
@pytest.mark.parametrize("views", [1, 2, 3, 4])
def test_maps_are_mirrored_back(rng, shape, views):
    image = rng.normal(size=shape).astype(np.float32)
    network = Leaning()
    found = run_mirrored(network, image, pixels=views * 54)
    assert len(network.seen) == views
    assert len({one.tobytes() for one in network.seen}) == views
    for name, value in run_tiled(Leaning(), image).items():
        assert found[name].shape == value.shape
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_a_preference_for_a_side_is_averaged_away(rng):
    image = rng.normal(size=(2, 5, 8)).astype(np.float32)
    assert np.ptp(run_mirrored(Leaning(0.1), image)["maps"] - image) < 1e-5
    assert np.ptp(run_mirrored(Leaning(0.1), image, pixels=1)["maps"] - image) > 0.6
