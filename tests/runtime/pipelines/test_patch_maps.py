"""Stage one on a whole image against a loop over its windows."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

from spm_runtime.pipelines import patch_maps as module
from spm_runtime.pipelines.patch_maps import CONTEXT_PX, PatchMaps, patch_maps

SIDE, STRIDE, SPARSE = 32, 8, 16
CLUSTERS = 4
WIDE = SIDE + 2 * CONTEXT_PX


def features(window):
    """Latents of one window of 46 × 46: of its middle, and of what lies around it."""
    middle = window[CONTEXT_PX:-CONTEXT_PX, CONTEXT_PX:-CONTEXT_PX]
    return np.array([middle.mean(), window.mean(), middle[3, 5]], np.float32)


def label_of(latent):
    return int(np.clip(100 * latent[0], 0, 1e6)) % CLUSTERS


def decoded(latent):
    """A window that depends on all latents and differs from pixel to pixel."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    return (latent[0] + latent[1] * y + latent[2] * x * y).astype(np.float32)


class Encoder:
    """A network that shares nothing: every window by itself, at stride 8."""

    def __init__(self) -> None:
        self.rows = []

    def run(self, inputs):
        image = inputs["image"]
        assert image.dtype == np.float32
        assert image.shape[:2] == (1, 1)
        assert all((size - WIDE) % STRIDE == 0 for size in image.shape[2:])
        self.rows.append(image.shape[2])
        windows = sliding_window_view(image[0, 0], (WIDE, WIDE))[::STRIDE, ::STRIDE]
        latent = np.array([[features(one) for one in row] for row in windows])
        label = np.array([[label_of(one) for one in row] for row in latent], np.float32)
        return {
            "latent": latent.transpose(2, 0, 1)[None],
            "label": label[None, None],
            "distance": np.abs(latent[..., 0] - latent[..., 1])[None, None],
        }


class Decoder:
    """The windows of latents."""

    def __init__(self) -> None:
        self.counts = []

    def run(self, inputs):
        assert inputs["latent"].flags.c_contiguous
        self.counts.append(len(inputs["latent"]))
        return {"reconstruction": np.array([decoded(one) for one in inputs["latent"]])[:, None]}


def by_windows(image, smoothing_px):
    """Character map, error map and distances, one window at a time."""
    whole = [SIDE + SPARSE * max(-(-(size - SIDE) // SPARSE), 0) for size in image.shape]
    padded = np.pad(image, [(0, new - old) for new, old in zip(whole, image.shape, strict=True)], mode="symmetric")
    framed = np.pad(padded, CONTEXT_PX, mode="symmetric")
    votes = np.zeros((*padded.shape, CLUSTERS), int)
    error, count = np.zeros(padded.shape), np.zeros(padded.shape)
    distance = {}
    for y in range(0, whole[0] - SIDE + 1, STRIDE):
        for x in range(0, whole[1] - SIDE + 1, STRIDE):
            latent = features(framed[y : y + WIDE, x : x + WIDE])
            place = np.s_[y : y + SIDE, x : x + SIDE]
            votes[place][..., label_of(latent)] += 1
            distance[y // STRIDE, x // STRIDE] = abs(latent[0] - latent[1])
            if y % SPARSE == 0 and x % SPARSE == 0:
                error[place] += (padded[place] - decoded(latent)) ** 2
                count[place] += 1
    cut = np.s_[: image.shape[0], : image.shape[1]]
    mean = (error / count)[cut]
    smooth = ndimage.gaussian_filter(mean, smoothing_px, mode="nearest") if smoothing_px else mean
    return votes.argmax(axis=-1)[cut], smooth, distance


def texture(shape, rng):
    return ndimage.gaussian_filter(rng.random(shape), 2.0, mode="nearest").astype(np.float32)


@pytest.mark.parametrize("shape", [(32, 32), (64, 48), (50, 71), (20, 90), (33, 32), (1, 1), (1, 40)])
@pytest.mark.parametrize("smoothing", [0.0, 1.5])
def test_maps_are_those_of_a_loop_over_windows(rng, shape, smoothing):
    image = texture(shape, rng)
    maps = patch_maps(Encoder(), Decoder(), image, clusters=CLUSTERS, smoothing_px=smoothing)
    character, error, distance = by_windows(image, smoothing)
    assert maps.character.shape == maps.error.shape == shape
    assert (maps.character.dtype, maps.error.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(maps.character, character)
    np.testing.assert_allclose(maps.error, error, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose([maps.distance[place] for place in distance], list(distance.values()), atol=1e-6)
    assert maps.distance.size == len(distance)
    assert maps.image is image


@pytest.mark.parametrize("pixels", [1, 5000, 8000])
def test_a_large_image_goes_through_in_bands_and_nothing_changes(rng, monkeypatch, pixels):
    image = texture((120, 64), rng)
    encoder, decoder = Encoder(), Decoder()
    whole = patch_maps(encoder, decoder, image, clusters=CLUSTERS, smoothing_px=1.0)
    assert len(encoder.rows) == len(decoder.counts) == 1
    monkeypatch.setattr(module, "BAND_PIXELS", pixels)
    monkeypatch.setattr(module, "BATCH", 7)
    banded_encoder, banded_decoder = Encoder(), Decoder()
    banded = patch_maps(banded_encoder, banded_decoder, image, clusters=CLUSTERS, smoothing_px=1.0)
    assert len(banded_encoder.rows) > 1
    assert max(banded_encoder.rows) <= max(pixels // (64 + 2 * CONTEXT_PX), WIDE)
    assert max(banded_decoder.counts) == 7
    for name in ("character", "error", "distance"):
        np.testing.assert_array_equal(getattr(banded, name), getattr(whole, name))


def test_the_typical_distance_is_that_of_what_was_measured():
    distance = np.array([[1, 2, 3], [4, 5, 60]], np.float32)  # of 40 × 48 pixels
    maps = PatchMaps(np.zeros((40, 48)), np.zeros((40, 48), np.int32), np.zeros((40, 48)), distance)
    valid = np.ones((40, 48), bool)
    assert maps.typical_distance(valid) == 3.5
    valid[:, 30:] = False  # the middles of the windows lie at 16, 24 and 32
    assert maps.typical_distance(valid) == 3.0
    valid[20:] = False
    assert maps.typical_distance(valid) == 1.5
    assert maps.typical_distance(np.zeros((40, 48), bool)) == 0.0
    tiny = PatchMaps(np.zeros((2, 3)), np.zeros((2, 3), np.int32), np.zeros((2, 3)), distance[:1, :1])
    assert tiny.typical_distance(np.ones((2, 3), bool)) == 1.0
