"""The classical restoration on surfaces and tips that are known."""

import numpy as np
import pytest
from scipy import ndimage

from spm_kernels import dilate, erode, estimate_tip
from spm_runtime.errors import ParameterError
from spm_runtime.pipelines.tip_classical import noise_of, restore_classical


def paraboloid(side, curvature, lean=0.0):
    v = np.arange(side) - side // 2
    return (-curvature * (v[:, None] ** 2 + v**2) - lean * np.maximum(v, 0)).astype(np.float32)


def spikes(rng, shape, height=20.0):
    """A gentle landscape with a few needles that show the tip."""
    surface = ndimage.gaussian_filter(rng.standard_normal(shape), 6)
    surface = surface / surface.std()
    surface[tuple(rng.integers(15, np.array(shape)[:, None] - 15, (2, 25)))] += height
    return surface.astype(np.float32)


def rms(difference):
    return float(np.sqrt(np.mean(difference**2)))


def test_needles_give_the_tip_and_the_tip_gives_the_surface(rng):
    surface, tip = spikes(rng, (140, 150)), paraboloid(15, 0.3, lean=0.4)
    image = dilate(surface, tip) + rng.normal(0, 0.02, surface.shape).astype(np.float32)
    result = restore_classical(image)
    assert result.tip.shape == (15, 15)
    assert np.abs(result.tip - tip)[4:-4, 4:-4].max() < 0.5
    assert rms(result.restored - surface) < 0.6 * rms(image - surface)


def test_a_known_tip_is_used_and_certainty_holds(rng):
    surface, tip = spikes(rng, (90, 100)), paraboloid(11, 0.4)
    image = dilate(surface, tip)
    result = restore_classical(image, tip=tip)
    assert result.tip is tip
    np.testing.assert_array_equal(result.restored, erode(image, tip))
    inside = result.certain[6:-6, 6:-6]
    assert 0.2 < inside.mean() < 1
    np.testing.assert_allclose(result.restored[6:-6, 6:-6][inside], surface[6:-6, 6:-6][inside], atol=1e-4)


def test_it_is_blind_estimation_and_erosion_and_nothing_else(rng):
    image = dilate(spikes(rng, (80, 80)), paraboloid(9, 0.5))
    for full in (False, True):
        result = restore_classical(image, tip_px=9, threshold=0.1, full=full, use_edges=True)
        expected = estimate_tip(image, np.zeros((9, 9), np.float32), threshold=0.1, full=full, use_edges=True)
        np.testing.assert_array_equal(result.tip, expected)
        np.testing.assert_array_equal(result.restored, erode(image, expected))


def test_offset_scale_and_unit_are_kept(rng):
    """Heights in metres with any offset; the scale is a power of two, so that no digit changes."""
    image = dilate(spikes(rng, (80, 80)), paraboloid(9, 0.5)) + rng.normal(0, 0.02, (80, 80)).astype(np.float32)
    image = np.round(image * 256) / 256
    plain, small = restore_classical(image), restore_classical(image * np.float32(2**-30))
    np.testing.assert_allclose(small.restored, plain.restored * 2.0**-30, rtol=1e-6)
    np.testing.assert_array_equal(small.certain, plain.certain)
    lifted = restore_classical(image + 64)
    assert np.abs(lifted.restored - 64 - plain.restored).max() < 1e-3


def test_missing_pixels_stay_missing(rng):
    image = dilate(spikes(rng, (80, 80)), paraboloid(9, 0.5))
    image[50:] = np.nan
    result = restore_classical(image, tip_px=9)
    np.testing.assert_array_equal(np.isfinite(result.restored), np.isfinite(image))
    assert not result.certain[50:].any()
    nothing = restore_classical(np.full((20, 20), np.nan, np.float32))
    assert not np.isfinite(nothing.restored).any()
    assert not nothing.certain.any()


def test_the_noise_is_measured_beside_steps_and_line_offsets(rng):
    image = rng.normal(0, 0.3, (200, 200)) + rng.normal(0, 5, (200, 1))
    image[:, 90:] += 100
    assert noise_of(image.astype(np.float32)) == pytest.approx(0.3, rel=0.05)
    image[20:30] = np.nan
    assert noise_of(image.astype(np.float32)) == pytest.approx(0.3, rel=0.05)
    assert noise_of(np.zeros((5, 2), np.float32)) == 0.0


@pytest.mark.parametrize("options", [{"tip_px": 8}, {"tip_px": -3}, {"threshold": -1.0}, {"threshold": np.nan}])
def test_wrong_parameters_are_named(options):
    with pytest.raises(ParameterError, match=next(iter(options))):
        restore_classical(np.zeros((20, 20), np.float32), **options)
